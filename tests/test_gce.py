"""Generalised cross-entropy, against its formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvr_lightning.methods.generalised_cross_entropy import GeneralisedCrossEntropy, generalised_cross_entropy


def formula(logits: Tensor, target: Tensor, q: float) -> Tensor:
    p = logits.movedim(1, -1).reshape(-1, logits.shape[1]).softmax(1)[range(target.numel()), target.flatten()]
    return ((1 - p**q) / q).mean()


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("shape", [(5,), (5, 3)], ids=["classes", "classes of each place"])
def test_loss_and_gradients_are_those_of_the_formula(q: float, views: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    places = shape[1:]
    model = nn.Sequential(nn.Linear(6, 5 * (places[0] if places else 1)), nn.Unflatten(1, shape)).double()
    x, y = [torch.randn(7, 6, dtype=torch.float64) for _ in range(views)], torch.randint(5, (7, *places))
    ours = GeneralisedCrossEntropy(q)(model, F.cross_entropy, x, y)
    theirs = torch.stack([formula(model(view), y, q) for view in x]).sum()
    assert ours.total.item() == pytest.approx(theirs.item(), rel=1e-12)
    assert [loss.item() for loss in ours.losses] == [pytest.approx(F.cross_entropy(model(v), y).item()) for v in x]
    found, wanted = (torch.autograd.grad(value, list(model.parameters())) for value in (ours.total, theirs))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_its_limits_soft_labels_and_extreme_logits() -> None:
    z, y = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    assert generalised_cross_entropy(z, y, 1e-9).item() == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-6)
    assert generalised_cross_entropy(z, F.one_hot(y, 4).double(), 0.7).item() == pytest.approx(
        formula(z, y, 0.7).item(), rel=1e-12
    )
    far = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    value = generalised_cross_entropy(far, torch.tensor([0, 0]), 0.5)
    assert value.item() == pytest.approx((0 + 2) / 2)
    assert torch.autograd.grad(value, far)[0].isfinite().all()


def test_half_precision_gives_float32() -> None:
    z, y = torch.randn(6, 4), torch.arange(6) % 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = generalised_cross_entropy(z.bfloat16(), y, 0.7)
    assert low.dtype == torch.float32 and low.item() == pytest.approx(
        formula(z.bfloat16().double(), y, 0.7).item(), 1e-5
    )


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, float("nan")])
def test_a_q_out_of_range_is_named(q: float) -> None:
    with pytest.raises(ValueError, match=r"q must be in \(0, 1\]"):
        GeneralisedCrossEntropy(q)
