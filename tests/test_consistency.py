"""Consistency: the symmetric KL divergence, against torch's own; it and BatchNorm's options in several processes."""

import math
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pool import Pool
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

from gvr_lightning.config.check import check
from gvr_lightning.distributed.batch import balanced_shard as shard
from gvr_lightning.distributed.sync_batchnorm import SyncBatchNorm, synchronise, uncounted
from gvr_lightning.errors import UserError
from gvr_lightning.methods.consistency import Consistency, symmetric_kl


def logits(views: int, rows: int = 7, classes: int = 5, scale: float = 2.0) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [scale * torch.randn(rows, classes, dtype=torch.float64, generator=g) for _ in range(views)]


@pytest.mark.parametrize("views", [2, 3, 4])
def test_formula(views: int) -> None:
    """The mean over all ordered pairs is that of (there and back) / 2 over all pairs."""
    z = logits(views)
    dists = [Categorical(logits=one) for one in z]
    expected = torch.stack([kl_divergence(p, q).mean() for p, q in permutations(dists, 2)]).mean()
    assert symmetric_kl(z).item() == pytest.approx(expected.item(), rel=1e-12) and expected > 0.1


def test_gradients_go_through_both_sides() -> None:
    z = [one.requires_grad_() for one in logits(3, rows=3, classes=4)]
    assert torch.autograd.gradcheck(lambda *views: symmetric_kl(views), z)
    assert torch.autograd.gradgradcheck(lambda *views: symmetric_kl(views), z)
    found = torch.autograd.grad(symmetric_kl(z[:2]), z[:2])
    assert all(g.abs().max() > 1e-3 for g in found)


def test_the_first_view_may_be_a_target() -> None:
    """What is left are the other views' own gradients, and those of pairs without the first are as they were."""
    x, y = batch(8, 3)
    model, target = network(), network()  # the same weights, of which the second's are a target's
    loss = Consistency(detach=True)(model, F.cross_entropy, x, y)
    logits = [target(x[0]), *(model(v) for v in x[1:])]
    theirs = symmetric_kl(logits)
    assert loss.penalty.item() == pytest.approx(theirs.item(), rel=1e-12)
    ours, wanted = (torch.autograd.grad(value, list(model.parameters())) for value in (loss.penalty, theirs))
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_equal_views_and_extreme_logits() -> None:
    z = logits(1)[0].requires_grad_()
    same = symmetric_kl([z, z + 3.0])
    assert same.item() == pytest.approx(0, abs=1e-15)
    far = [torch.tensor([[1e4, 0.0]], requires_grad=True), torch.tensor([[0.0, 1e4]], requires_grad=True)]
    value = symmetric_kl(far)
    assert value.item() == pytest.approx(1e4)
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, far))


def test_half_precision_and_autocast_give_float32() -> None:
    z = logits(2)
    for half in (torch.float16, torch.bfloat16):
        low = [one.to(half) for one in z]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = symmetric_kl(low)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(symmetric_kl([one.double() for one in low]).item(), rel=1e-5)


def test_pixels_are_rows() -> None:
    z = [one.view(2, 3, 5, 4) for one in logits(2, rows=30, classes=4)]
    flat = [one.movedim(1, -1).reshape(-1, 3) for one in z]
    assert symmetric_kl(z).item() == pytest.approx(symmetric_kl(flat).item(), rel=1e-12)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()


def batch(rows: int, views: int = 2) -> tuple[list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(1)
    x = [torch.randn(rows, 6, dtype=torch.float64, generator=g) for _ in range(views)]
    return x, torch.randint(0, 4, (rows,), generator=g)


def test_the_loss() -> None:
    model, (views, target) = network(), batch(8)
    loss = Consistency(alpha=0.3)(model, F.cross_entropy, views, target)
    p, q = (model(view).softmax(1) for view in views)
    divergence = ((p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)).mean() / 2
    expected = sum(F.cross_entropy(model(view), target) for view in views) + 0.3 * divergence
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert loss.penalty.item() == pytest.approx(divergence.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(x, list(model.parameters())) for x in (loss.total, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    assert Consistency(0.0)(model, F.cross_entropy, views, target).weighted.item() == 0


def test_what_it_does_not_take() -> None:
    views, target = batch(4)
    with pytest.raises(ValueError, match="two or more"):
        Consistency()(network(), F.cross_entropy, views[:1], target)
    for alpha in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            Consistency(alpha)


def in_parts(rows: int, views: int) -> tuple[float, float, list[Tensor]]:
    """The mean over the processes of total, penalty and gradients."""
    model, (x, target) = network(), batch(rows, views)
    here = shard(rows, torch.distributed.get_rank(), torch.distributed.get_world_size())
    mine = slice(here.start, here.stop)
    loss = Consistency(alpha=2.0)(model, F.cross_entropy, [v[mine] for v in x], target[mine], shard=here)
    loss.total.backward()
    values = [loss.total.detach().clone(), loss.penalty.detach().clone()]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    for tensor in (*values, *grads):
        torch.distributed.all_reduce(tensor)
        tensor.div_(2)
    return values[0].item(), values[1].item(), grads


@pytest.mark.parametrize(("rows", "views"), [(8, 2), (7, 3), (1, 2)])  # even, uneven, and a process without rows
def test_two_processes_compute_what_one_does(two: Pool, rows: int, views: int) -> None:
    model, (x, target) = network(), batch(rows, views)
    loss = Consistency(alpha=2.0)(model, F.cross_entropy, x, target)
    loss.total.backward()
    for total, penalty, grads in two(in_parts, rows, views):
        assert total == pytest.approx(loss.total.item(), rel=1e-12)
        assert penalty == pytest.approx(loss.penalty.item(), rel=1e-12)
        for ours, p in zip(grads, model.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("task=ddpm regularizer=consistency", "probabilities of classes"),
        ("regularizer=consistency regularizer.views=1", "views must be >= 2"),
        ("regularizer=consistency regularizer.penalty.alpha=-1", "regularizer.penalty.alpha=-1"),
    ],
)
def test_mistakes_end_in_one_line(line: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        check(line.split())
    assert said in str(caught.value) and "\n" not in str(caught.value) and "gvr_split" not in str(caught.value)
    check(["regularizer=consistency", "regularizer.views=3", "alpha=1", "task.compile=true"])


# --- BatchNorm over processes ----------------------------------------------------------------------------------------

NORMS: dict[str, dict[str, Any]] = {
    "usual": {},
    "average of all": {"momentum": None},
    "other numbers": {"momentum": 0.3, "eps": 0.5},
    "without weights": {"affine": False},
    "without statistics": {"track_running_stats": False},
}


def norm(options: dict[str, Any]) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    made = nn.BatchNorm2d(3, **options)
    for p in made.parameters():
        nn.init.normal_(p)
    return made


def pixels(step: int = 0) -> Tensor:
    return 3 + 2 * torch.randn(5, 3, 2, 4, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("options", NORMS)
def test_synchronised_batchnorm_keeps_every_option(options: str) -> None:
    ours, theirs = nn.Sequential(norm(NORMS[options])), norm(NORMS[options])
    ours.train(options != "usual")
    synchronise(ours)
    assert isinstance(ours[0], SyncBatchNorm) and ours[0].training == (options != "usual")
    ours.train()
    for step in range(3):
        torch.testing.assert_close(ours(pixels(step)), theirs(pixels(step)))
    assert ours[0].state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours[0].state_dict().items())
    torch.testing.assert_close(ours.eval()(pixels(9)), theirs.eval()(pixels(9)))
    again = synchronise(ours)
    assert again[0] is ours[0]  # type: ignore[index]
    assert isinstance(synchronise(norm(NORMS[options])), SyncBatchNorm)  # a network that is nothing else


def normalised(options: dict[str, Any]) -> dict[str, Any]:
    """On two processes, of which the second has no row in the last step: one of zeros stands in for it."""
    layer, rank = synchronise(norm(options)), torch.distributed.get_rank()
    mine = slice(2) if rank == 0 else slice(2, None)
    outputs = [layer(pixels(step)[mine]).detach() for step in range(3)]
    if rank:
        with uncounted(layer):
            layer(torch.zeros(1, 3, 2, 4))
    else:
        outputs.append(layer(pixels(3)).detach())
    assert layer.counted
    half = layer(pixels(4)[2 * rank : 2 * rank + 2].bfloat16())
    return {"outputs": outputs, "state": layer.state_dict(), "half": half.detach()}


@pytest.mark.parametrize("options", NORMS)
def test_over_processes_batchnorm_is_that_of_all_rows(two: Pool, options: str) -> None:
    layer = norm(NORMS[options])
    expected = [layer(pixels(step)) for step in range(4)]
    expected.append(layer(pixels(4)[:4].bfloat16().float()))
    first, second = two(normalised, NORMS[options])
    for step in range(3):
        found = torch.cat([first["outputs"][step], second["outputs"][step]])
        torch.testing.assert_close(found, expected[step], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first["outputs"][3], expected[3], rtol=1e-5, atol=1e-5)
    half = torch.cat([first["half"], second["half"]])
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected[4], rtol=1e-2, atol=1e-2)
    for state in (first["state"], second["state"]):
        assert state.keys() == layer.state_dict().keys()
        for name, value in layer.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
