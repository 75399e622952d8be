"""What half precision leaves of the penalties: the figures of float32 for the very features and logits that it made."""

import copy
import csv
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from runs import weights
from torch import Tensor, nn

from gvr_lightning import GradientVariance, gradient_variance, last_layer_variance
from gvr_lightning.distributed.batch import product_norm_is_cheaper as gram_is_cheaper
from gvr_lightning.methods.consistency import Consistency, symmetric_kl
from gvr_lightning.methods.feature_norm import FeatureNorm
from gvr_lightning.methods.gvr.label_free import LabelFreeGradientVariance
from gvr_lightning.methods.gvr.normalised import NormalisedGradientVariance
from gvr_lightning.methods.gvr.one_view import OneViewGradientVariance
from gvr_lightning.methods.gvr.penalty import PublishedGradientVariance
from gvr_lightning.methods.gvr.variance import per_sample_variance
from gvr_lightning.methods.label_smoothing import LabelSmoothing, uniform_cross_entropy
from gvr_lightning.methods.penalty import NoPenalty, Penalty
from gvr_lightning.models.split import SplitNetwork

B, C, D = 12, 5, 32
HALVES = [torch.bfloat16, torch.float16]
PENALTIES: dict[str, Callable[[], Penalty]] = {
    "none": NoPenalty,
    "head": GradientVariance,
    "head, subset": lambda: GradientVariance(subset=5),
    "split": lambda: GradientVariance(split=True),
    "per_sample": lambda: GradientVariance(per_sample=True),
    "last_stage": lambda: GradientVariance(layers="last_stage", subset=5, shared=True),
    "names": lambda: GradientVariance(layers=["backbone.*", "head.weight"]),
    "published": lambda: PublishedGradientVariance(subset=6),
    "normalised": NormalisedGradientVariance,
    "normalised, batch": lambda: NormalisedGradientVariance(whole_batch=True),
    "label_free": LabelFreeGradientVariance,
    "one_view": OneViewGradientVariance,
    "fisher": lambda: OneViewGradientVariance(fisher=True),
    "feature_norm": FeatureNorm,
    "consistency": Consistency,
    "label_smoothing": LabelSmoothing,
}
NOT_ON_THESE_ROWS = ("none", "last_stage", "names", "published")  # what runs again, or adds nothing
ON_LOGITS = ("consistency", "label_smoothing")


def network() -> SplitNetwork:
    torch.manual_seed(0)
    early, last = nn.Sequential(nn.Linear(6, 16), nn.Tanh()), nn.Sequential(nn.Linear(16, D), nn.ReLU())
    return SplitNetwork(early, last, nn.Linear(D, C))


def batch(views: int, rows: int = B) -> tuple[list[Tensor], Tensor, Tensor]:
    """Views, labels, and keys that put the rows into order."""
    g = torch.Generator().manual_seed(1)
    x = [2 * torch.randn(rows, 6, generator=g) for _ in range(views)]
    return x, torch.randint(0, C, (rows,), generator=g), torch.rand(views, rows, generator=g)


def views_of(name: str) -> int:
    return 1 if name in ("split", "label_smoothing", "none", "one_view", "fisher", "feature_norm") else 3


class Leaves:
    """Cuts a module's outputs off from what made them, and keeps them: half precision's own figures."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors: list[Tensor] = []
        module.register_forward_hook(self._cut)

    def _cut(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self.tensors.append(output.detach().requires_grad_())
        return self.tensors[-1]


# --- formulas in float64, from features h and logits z ---------------------------------------------------------------


def residual(z: Tensor, y: Tensor) -> Tensor:
    """B times the gradient of the mean cross-entropy."""
    return z.softmax(1) - F.one_hot(y, C)


def matrices(z: Tensor, h: Tensor, y: Tensor) -> Tensor:
    """Each row's gradient of the last layer, weight and bias, (rows, C, D + 1)."""
    return torch.einsum("bc,bd->bcd", residual(z, y), torch.cat([h, torch.ones_like(h[:, :1])], 1))


def mean_over_pairs(distance: Callable[[Any, Any], Tensor], items: Sequence[Any]) -> Tensor:
    return torch.stack([distance(a, b) for a, b in combinations(items, 2)]).mean()


def mean_over_rows_and_pairs(distance: Callable[[Any, Any], Tensor], items: Sequence[Any]) -> Tensor:
    """Summed over each row's matrix, averaged over the pairs."""
    return torch.stack([distance(a, b).sum((1, 2)) for a, b in combinations(items, 2)]).mean(0)


def label_free(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Each row's distance, for every label in turn, weighed by how likely it is."""
    labels = [torch.full((len(one[0]),), label) for label in range(C)]
    each = torch.stack([(matrices(*one, y) - matrices(*other, y)).square().sum((1, 2)) for y in labels], 1)
    return (each * (one[0].softmax(1) + other[0].softmax(1)) / 2).sum(1).mean()


def expected(name: str, z: list[Tensor], h: list[Tensor], y: Tensor, keys: Tensor) -> Tensor:
    z, h = ([t.double() for t in tensors] for tensors in (z, h))
    if name == "consistency":
        logs = [a.log_softmax(1) for a in z]
        return mean_over_pairs(lambda p, q: ((p.exp() - q.exp()) * (p - q)).sum(1).mean() / 2, logs)
    if name == "label_smoothing":
        logs = z[0].log_softmax(1)
        return (logs[range(B), y] - logs.mean(1)).mean()
    if name == "feature_norm":
        return h[0].square().sum(1).mean()
    each = [matrices(a, b, y) for a, b in zip(z, h, strict=True)]
    if name == "fisher":
        drawn = torch.stack([matrices(z[0], h[0], torch.full_like(y, label)) for label in range(C)])
        return torch.einsum("bl,lb->b", z[0].softmax(1), drawn.square().sum((2, 3))).mean()
    if name == "label_free":
        return mean_over_pairs(label_free, list(zip(z, h, strict=True)))
    if name == "one_view":
        return (each[0] - each[0].mean(0)).square().sum((1, 2)).mean()
    if name.startswith("normalised"):
        each = [m.mean(0, keepdim=True) for m in each] if "batch" in name else each
        size = mean_over_rows_and_pairs(lambda a, b: a.square() + b.square(), each).detach()
        return (mean_over_rows_and_pairs(lambda a, b: (a - b).square(), each) / (size + 1e-8)).mean()
    if name == "per_sample":
        return mean_over_pairs(lambda a, b: (a - b).square().sum((1, 2)).mean(), each)
    if name == "split":
        order = keys[0].argsort()
        each = [each[0][order[: B // 2]], each[0][order[B // 2 :]]]
    elif name == "head, subset":
        each = [m[key.argsort()[:5]] for m, key in zip(each, keys, strict=True)]
    return mean_over_pairs(lambda a, b: (a.mean(0) - b.mean(0)).square().sum(), each)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", [name for name in PENALTIES if name not in NOT_ON_THESE_ROWS])
def test_a_penalty_under_autocast_is_exact_for_what_the_network_gave(name: str, half: torch.dtype) -> None:
    model, (x, y, keys) = network(), batch(views_of(name))
    features, logits = Leaves(model.backbone), Leaves(model.head)
    with torch.autocast("cpu", half):
        ours = PENALTIES[name]()(model, F.cross_entropy, x, y, keys)
    assert all(t.dtype == half for t in logits.tensors), "the network itself ran in half precision"
    theirs = expected(name, logits.tensors, features.tensors, y, keys)
    if name == "feature_norm":
        theirs = theirs + model.head.weight.double().square().sum()
    assert ours.penalty.item() == pytest.approx(theirs.item(), rel=1e-5) and theirs != 0
    leaves = [*(logits.tensors if name != "feature_norm" else []), *(features.tensors if name not in ON_LOGITS else [])]
    found, wanted = (torch.autograd.grad(penalty, leaves) for penalty in (ours.penalty, theirs))
    for a, b in zip(found, wanted, strict=True):  # each is rounded once, when it goes back into half precision
        assert (a.float() - b.float()).norm() <= torch.finfo(half).eps * b.float().norm()


@pytest.mark.parametrize("half", HALVES)
def test_the_last_stage_runs_again_in_float32(half: torch.dtype) -> None:
    model, (x, y, keys) = network(), batch(2)
    twin = copy.deepcopy(model).double()
    entering = Leaves(model.backbone.early)
    with torch.autocast("cpu", half):
        ours = GradientVariance(layers="last_stage", subset=5, shared=True)(model, F.cross_entropy, x, y, keys)
    rows = keys[0].argsort()[:5]
    losses = [F.cross_entropy(twin.head(twin.backbone.last_stage(u.double()[rows])), y[rows]) for u in entering.tensors]
    params = [*twin.backbone.last_stage.parameters(), *twin.head.parameters()]
    by_view = [torch.autograd.grad(loss, params, create_graph=True) for loss in losses]
    theirs = sum((a - b).square().sum() for a, b in zip(*by_view, strict=True))
    assert ours.penalty.item() == pytest.approx(theirs.item(), rel=1e-5) and theirs > 0
    tuned = [*model.backbone.last_stage.parameters(), *model.head.parameters()]
    unlike = {"rtol": 1e-3, "atol": 1e-5}
    for a, b in zip(*(torch.autograd.grad(*p, retain_graph=True) for p in ((ours.penalty, tuned), (theirs, params))),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a.double(), b, **unlike)
    for a, b in zip(*(torch.autograd.grad(p, entering.tensors) for p in (ours.penalty, theirs)), strict=True):
        assert (a.float() - b.float()).norm() <= torch.finfo(half).eps * b.float().norm()


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", ["names", "published"])
def test_a_penalty_through_the_whole_network_is_within_half_precision_of_float32_s(
    name: str, half: torch.dtype
) -> None:
    figures = []
    for enabled in (True, False):
        model, (x, y, keys) = network(), batch(2)
        with torch.autocast("cpu", half, enabled=enabled):
            loss = PENALTIES[name]()(model, F.cross_entropy, x, y, keys)
        loss.penalty.backward()
        grads = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                           for p in model.parameters()])  # fmt: skip
        figures.append((loss.penalty.item(), grads))
    (ours, ours_grads), (theirs, theirs_grads) = figures
    assert ours == pytest.approx(theirs, rel=10 * torch.finfo(half).eps) and ours != theirs
    assert (ours_grads - theirs_grads).norm() <= 10 * torch.finfo(half).eps * theirs_grads.norm()


# --- what leaves -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize(
    ("weights_in", "half", "leaving"),
    [
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float32, torch.float16, torch.float32),
        (torch.bfloat16, None, torch.float32),
        (torch.float32, None, torch.float32),
        (torch.float64, None, torch.float64),
    ],
    ids=str,
)
def test_losses_logits_and_penalty_leave_in_float32_at_least(
    name: str, weights_in: torch.dtype, half: torch.dtype | None, leaving: torch.dtype
) -> None:
    model, (x, y, keys) = network().to(weights_in), batch(views_of(name))
    with torch.autocast("cpu", half, enabled=half is not None):
        loss = PENALTIES[name]()(model, F.cross_entropy, [view.to(weights_in) for view in x], y, keys)
    tensors = [*loss.losses, *loss.logits, loss.penalty, loss.weighted, loss.total]
    assert {t.dtype for t in tensors} == {leaving}
    for value, z, target in zip(loss.losses, loss.logits, loss.targets, strict=True):
        assert value.item() == pytest.approx(F.cross_entropy(z.double(), target).item(), rel=1e-6)
    assert loss.penalty != 0 or name == "none"
    loss.total.backward()
    assert all(p.grad is not None and p.grad.dtype == weights_in for p in model.parameters())


# --- the functions ---------------------------------------------------------------------------------------------------


def graph(rows: int, classes: int, features: int, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """A last layer in some precision, and two views' features, logits, labels and losses."""
    torch.manual_seed(0)
    head = nn.Linear(features, classes).to(dtype)
    h = [(3 * torch.randn(rows, features)).to(dtype).requires_grad_() for _ in range(2)]
    z, y = [head(one) for one in h], torch.arange(rows) % classes
    return head, h, z, y, [F.cross_entropy(one.float(), y) for one in z]


@pytest.mark.parametrize(("rows", "classes", "features"), [(24, 4, 6), (3, 40, 50)], ids=["matrix", "inner products"])
def test_autocast_around_a_penalty_changes_nothing(rows: int, classes: int, features: int) -> None:
    """Where the network itself ran in float32, neither a value nor a gradient is touched by half precision."""
    assert gram_is_cheaper(rows, classes, features) == (rows == 3)
    head, h, z, y, losses = graph(rows, classes, features)
    functions: dict[str, Callable[[], Tensor]] = {
        "definition": lambda: gradient_variance(losses, head.parameters()),
        "closed form": lambda: last_layer_variance(losses, z, h),
        "per sample": lambda: per_sample_variance(F.cross_entropy, z, h, [y, y]),
        "consistency": lambda: symmetric_kl(z),
        "smoothing": lambda: uniform_cross_entropy(z[0]),
    }
    for name, function in functions.items():
        with torch.autocast("cpu", torch.bfloat16):
            under = function()
        plain = function()
        assert under.dtype == torch.float32, name
        torch.testing.assert_close(under, plain, rtol=1e-6, atol=0, msg=name)
        a, b = (torch.autograd.grad(v, h[0], retain_graph=True)[0] for v in (under, plain))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9, msg=name)


@pytest.mark.parametrize("half", HALVES)
def test_gradients_in_half_precision_are_compared_in_float32(half: torch.dtype) -> None:
    head, *_, losses = graph(24, 4, 6, half)
    grads = [torch.autograd.grad(loss, list(head.parameters()), retain_graph=True) for loss in losses]
    exact = sum((a.double() - b.double()).square().sum() for a, b in zip(*grads, strict=True))
    assert gradient_variance(losses, head.parameters()).item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize(("rows", "classes", "features"), [(24, 4, 6), (3, 40, 50)], ids=["matrix", "inner products"])
def test_features_whose_squares_overflow_float16(rows: int, classes: int, features: int) -> None:
    torch.manual_seed(0)
    h = [(500 * torch.randn(rows, features)).half() for _ in range(2)]
    z = [torch.randn(rows, classes).half().requires_grad_() for _ in range(2)]
    y = torch.arange(rows) % classes
    found, wanted = [], []
    for figures, dtype in ((found, torch.float16), (wanted, torch.float64)):
        logits, inputs = [one.to(dtype) for one in z], [one.to(dtype) for one in h]
        losses = [F.cross_entropy(one.double(), y) for one in logits]
        figures.append(last_layer_variance(losses, logits, inputs).item())
        figures.append(per_sample_variance(F.cross_entropy, logits, inputs, [y, y]).item())
    assert max(wanted) > torch.finfo(torch.float16).max
    assert found == pytest.approx(wanted, rel=2e-3)  # the gradient by the logits is rounded to their precision


# --- whole runs ------------------------------------------------------------------------------------------------------


def epochs(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_a_run_in_mixed_precision_follows_that_in_float32(finished: Callable[..., Path]) -> None:
    exact, mixed = finished("regularizer=gvr"), finished("regularizer=gvr", "trainer.precision=bf16-mixed")
    for name, within in (("train/loss", 0.01), ("val/loss", 0.01), ("test/loss", 0.01), ("train/penalty", 0.05)):
        ours, theirs = epochs(mixed, name), epochs(exact, name)
        assert ours == pytest.approx(theirs, rel=within) and ours != theirs, name
    before, after = weights(exact), weights(mixed)
    assert {t.dtype for t in after.values()} == {torch.float32}
    assert all((before[n] - after[n]).norm() <= 0.02 * before[n].norm() + 0.02 for n in before)


def test_a_run_in_float64_is_one(finished: Callable[..., Path]) -> None:
    exact, single = finished("regularizer=gvr", "trainer.precision=64-true"), finished("regularizer=gvr")
    assert {t.dtype for t in weights(exact).values()} == {torch.float64}
    for name in ("train/loss", "train/penalty"):
        assert epochs(exact, name) == pytest.approx(epochs(single, name), rel=1e-3)
        assert epochs(exact, name) != epochs(single, name)
