"""Label smoothing as a penalty, against torch's own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from runs import tiny_run, weights
from torch import nn

from gvr_lightning.config.check import check
from gvr_lightning.errors import UserError
from gvr_lightning.methods.label_smoothing import LabelSmoothing


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("shape", [(5,), (5, 3)], ids=["classes", "classes of each place"])
def test_loss_and_gradients_are_torch_s(smoothing: float, views: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    size, places = shape[0], shape[1:]
    model = nn.Sequential(nn.Linear(6, size * (places[0] if places else 1)), nn.Unflatten(1, shape)).double()
    other = copy.deepcopy(model)
    x = [torch.randn(7, 6, dtype=torch.float64) for _ in range(views)]
    y = torch.randint(size, (7, *places))
    ours = LabelSmoothing(smoothing)(model, F.cross_entropy, x, y)
    theirs = torch.stack([F.cross_entropy(other(view), y, label_smoothing=smoothing) for view in x]).sum()
    assert ours.total.item() == pytest.approx(theirs.item(), rel=1e-12)
    assert [loss.item() for loss in ours.losses] == [pytest.approx(F.cross_entropy(other(v), y).item()) for v in x]
    ours.total.backward()
    theirs.backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-14)


def test_a_run_is_that_of_the_smoothed_criterion(tmp_path: object) -> None:
    a, b = (tmp_path / name for name in "ab")  # type: ignore[operator]
    exact = ["trainer.precision=64-true"]
    tiny_run(a, *exact, "regularizer=label_smoothing", "regularizer.penalty.smoothing=0.2")
    tiny_run(b, *exact, "task.label_smoothing=0.2")
    for one, other in zip(weights(a).values(), weights(b).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_what_it_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match="smoothing"):
        LabelSmoothing(1.0)
    with pytest.raises(UserError, match=r"regularizer\.penalty\.smoothing=1\.0"):
        check(["regularizer=label_smoothing", "regularizer.penalty.smoothing=1.0"])
    with pytest.raises(UserError, match=r"task=ddpm: regularizer=label_smoothing"):
        check(["task=ddpm", "regularizer=label_smoothing"])
