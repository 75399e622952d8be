"""Penalties in closed form for a linear last layer, against each row's own gradients by autograd, float64."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from pool import Pool
from torch import Tensor, nn

from gvr_lightning.config.check import check
from gvr_lightning.distributed.batch import Shard
from gvr_lightning.distributed.batch import balanced_shard as shard
from gvr_lightning.errors import UserError
from gvr_lightning.methods.feature_norm import FeatureNorm
from gvr_lightning.methods.gvr import outer
from gvr_lightning.methods.gvr.label_free import LabelFreeGradientVariance
from gvr_lightning.methods.gvr.normalised import NormalisedGradientVariance
from gvr_lightning.methods.gvr.one_view import OneViewGradientVariance
from gvr_lightning.methods.penalty import Penalty
from gvr_lightning.models.split import SplitNetwork

B, C, D = 6, 4, 5
EPS = 1e-3


def soft(target: Tensor) -> Tensor:
    return F.one_hot(target, C).double() * 0.8 + 0.2 / C


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "smoothed": partial(F.cross_entropy, label_smoothing=0.1),
    "soft": lambda z, y: F.cross_entropy(z, soft(y)),
    "mse": lambda z, y: F.mse_loss(z, soft(y)),
}


def network(bias: bool = True) -> SplitNetwork:
    torch.manual_seed(0)
    early, last = nn.Sequential(nn.Linear(6, 9), nn.Tanh()), nn.Sequential(nn.Linear(9, D), nn.Tanh())
    return SplitNetwork(early, last, nn.Linear(D, C, bias=bias)).double()


def batch(views: int, rows: int = B) -> tuple[list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(rows, 6, dtype=torch.float64, generator=g) for _ in range(views)], torch.randint(
        0, C, (rows,), generator=g
    )


def own_gradients(model: SplitNetwork, criterion: Callable[..., Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Each row's gradient of the last layer by a pass and a backward pass of its own, (rows, parameters)."""
    losses = [criterion(model(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
    params = list(model.head.parameters())
    found = [torch.autograd.grad(loss, params, create_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in grads]) for grads in found])


def squares(g: Tensor) -> Tensor:
    return g.square().sum(-1)


def over_pairs(distance: Callable[[Tensor, Tensor], Tensor], each: Sequence[Tensor]) -> Tensor:
    return torch.stack([distance(a, b) for a, b in combinations(each, 2)]).mean(0)


def normalised(model: SplitNetwork, criterion: Callable[..., Tensor], x: list[Tensor], y: Tensor) -> Tensor:
    each = [own_gradients(model, criterion, v, y) for v in x]
    size = over_pairs(lambda a, b: squares(a) + squares(b), each).detach()
    return (over_pairs(lambda a, b: squares(a - b), each) / (size + EPS)).mean()


def normalised_of_batch(model: SplitNetwork, criterion: Callable[..., Tensor], x: list[Tensor], y: Tensor) -> Tensor:
    each = [own_gradients(model, criterion, v, y).mean(0) for v in x]
    size = over_pairs(lambda a, b: squares(a) + squares(b), each).detach()
    return over_pairs(lambda a, b: squares(a - b), each) / (size + EPS)


def for_each_label(model: SplitNetwork, x: Tensor) -> Tensor:
    """(labels, rows, parameters)."""
    labels = [torch.full((len(x),), label) for label in range(C)]
    return torch.stack([own_gradients(model, F.cross_entropy, x, label) for label in labels])


def label_free(
    model: SplitNetwork, criterion: Callable[..., Tensor], x: list[Tensor], y: Tensor, target: bool = False
) -> Tensor:
    """The expectation, label by label."""
    each = [(model(v).softmax(1), for_each_label(model, v)) for v in x]
    if target:
        each[0] = each[0][0].detach(), each[0][1].detach()
    pairs = [((p + q).T / 2 * squares(g - h)).sum(0).mean() for (p, g), (q, h) in combinations(each, 2)]
    return torch.stack(pairs).mean()


def variance(model: SplitNetwork, criterion: Callable[..., Tensor], x: list[Tensor], y: Tensor) -> Tensor:
    each = [own_gradients(model, criterion, v, y) for v in x]
    return torch.stack([squares(g - g.mean(0)).mean() for g in each]).mean()


def fisher(model: SplitNetwork, criterion: Callable[..., Tensor], x: list[Tensor], y: Tensor) -> Tensor:
    traces = [(model(v).softmax(1).T * squares(for_each_label(model, v))).sum(0).mean() for v in x]
    return torch.stack(traces).mean()


def norms(model: SplitNetwork, criterion: Callable[..., Tensor], x: list[Tensor], y: Tensor) -> Tensor:
    return torch.cat([squares(model.backbone(v)) for v in x]).mean() + model.head.weight.square().sum()


class Form(NamedTuple):
    ours: Callable[..., Penalty]
    theirs: Callable[..., Tensor]
    fewest: int = 1


FORMS = {
    "normalised": Form(partial(NormalisedGradientVariance, eps=EPS), normalised, 2),
    "normalised, batch": Form(partial(NormalisedGradientVariance, whole_batch=True, eps=EPS), normalised_of_batch, 2),
    "label_free": Form(LabelFreeGradientVariance, label_free, 2),
    "label_free, detach": Form(partial(LabelFreeGradientVariance, detach=True), partial(label_free, target=True), 2),
    "one_view": Form(OneViewGradientVariance, variance),
    "one_view, fisher": Form(partial(OneViewGradientVariance, fisher=True), fisher),
    "feature_norm": Form(FeatureNorm, norms),
}
every_form = pytest.mark.parametrize("name", FORMS)


def gradients(value: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def assert_same(ours: Tensor, theirs: Tensor, model: nn.Module, other: nn.Module | None = None) -> None:
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10) and theirs > 1e-4
    found, wanted = gradients(ours, model), gradients(theirs, other or model)
    assert max(g.abs().max() for g in wanted) > 1e-4
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("views", [0, 1], ids=["fewest views", "one more"])
@pytest.mark.parametrize("gram", [False, True], ids=["matrix", "inner products"])
@pytest.mark.parametrize("bias", [True, False])
@every_form
def test_value_and_gradients_are_those_of_the_definition(
    name: str, bias: bool, gram: bool, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outer, "product_norm_is_cheaper", lambda *sizes: gram)
    form, model = FORMS[name], network(bias)
    x, y = batch(form.fewest + views)
    loss = form.ours(alpha=0.3)(model, F.cross_entropy, x, y)
    assert_same(loss.penalty, form.theirs(model, F.cross_entropy, x, y), model)
    plain = sum(F.cross_entropy(model(v), y) for v in x)
    assert loss.total.item() == pytest.approx((plain + 0.3 * loss.penalty).item(), rel=1e-12)


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "cross_entropy"])
@every_form
def test_other_losses_and_soft_labels_as_for_gvr(name: str, criterion: str) -> None:
    """Where labels enter; the expectations over labels are those of the plain cross-entropy, whatever the loss."""
    form, model = FORMS[name], network()
    x, y = batch(form.fewest)
    loss = form.ours()(model, CRITERIA[criterion], x, y)
    assert_same(loss.penalty, form.theirs(model, CRITERIA[criterion], x, y), model)


@every_form
def test_other_labels_leave_what_asks_for_none(name: str) -> None:
    form, model = FORMS[name], network()
    x, y = batch(form.fewest)
    one, other = (form.ours()(model, F.cross_entropy, x, labels).penalty.item() for labels in (y, (y + 1) % C))
    asks_for_none = name.startswith(("label_free", "feature_norm")) or "fisher" in name
    assert (one == other) == asks_for_none


def in_parts(name: str, rows: int) -> tuple[float, list[Tensor]]:
    """The mean over the processes of penalty and gradients."""
    form, model = FORMS[name], network()
    x, y = batch(form.fewest, rows)
    processes = torch.distributed.get_world_size()
    here = shard(rows, torch.distributed.get_rank(), processes)
    mine = slice(here.start, here.stop)
    loss = form.ours()(model, F.cross_entropy, [v[mine] for v in x], y[mine], shard=here)
    tensors = [loss.penalty.detach().clone(), *gradients(loss.penalty, model)]
    for tensor in tensors:
        torch.distributed.all_reduce(tensor)
        tensor.div_(processes)
    return tensors[0].item(), tensors[1:]


@pytest.mark.parametrize("rows", [8, 7, 1])  # even, uneven, and a process without rows
@every_form
def test_two_processes_compute_what_one_does(two: Pool, name: str, rows: int) -> None:
    form, model = FORMS[name], network()
    x, y = batch(form.fewest, rows)
    penalty = form.ours()(model, F.cross_entropy, x, y).penalty
    wanted = gradients(penalty, model)
    for value, found in two(in_parts, name, rows):
        assert value == pytest.approx(penalty.item(), rel=1e-12, abs=1e-14)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_the_larger_part_of_a_batch_weighs_more() -> None:
    """As on the process that has six of nine rows, where a mean over the rows here weighs 12/9."""
    x, y = batch(1)
    parts, alone = (
        OneViewGradientVariance(fisher=True)(network(), F.cross_entropy, x, y, shard=here).penalty.item()
        for here in (Shard(0, 6, 9, 2), None)
    )
    assert parts == pytest.approx(12 / 9 * alone, rel=1e-12)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at every input's
def test_a_compiled_backbone_gives_the_same() -> None:
    model, twin = network(), network()
    torch.compiler.reset()
    model.compile_backbone(backend="aot_eager")
    for form in FORMS.values():
        x, y = batch(form.fewest)
        assert_same(*(form.ours()(one, F.cross_entropy, x, y).penalty for one in (model, twin)), model, twin)


@pytest.mark.parametrize("whole_batch", [False, True])
def test_no_scale_of_features_and_weights_changes_what_is_normalised(whole_batch: bool) -> None:
    """With h -> s h, W -> W / s the function stays; without a bias its gradients are s times as large."""
    found = []
    for scale in (1.0, 0.1):
        model = network(bias=False)
        inner, model.backbone.last_stage = model.backbone.last_stage, nn.Identity()
        model.backbone.last_stage = nn.Sequential(inner, Times(scale))
        model.head.weight.data /= scale
        penalty = NormalisedGradientVariance(whole_batch=whole_batch, eps=1e-15)
        found.append(penalty(model, F.cross_entropy, *batch(2)).penalty.item())
    assert found[1] == pytest.approx(found[0], rel=1e-9) and 0 < found[0] < 2


class Times(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


@every_form
def test_certain_predictions_and_equal_views_are_finite(name: str) -> None:
    form, model = FORMS[name], network().float()
    model.head.weight.data *= 1e4  # so that p is 0 or 1 exactly
    x, y = batch(1)
    loss = form.ours()(model, F.cross_entropy, [x[0].float()] * form.fewest, y)
    assert all(g.isfinite().all() for g in gradients(loss.penalty, model))
    if form.fewest == 2:
        assert loss.penalty.item() == 0


@every_form
def test_a_network_without_a_trained_linear_last_layer_is_refused(name: str) -> None:
    form = FORMS[name]
    penalty, who = form.ours(), type(form.ours()).__name__
    model = network()
    penalty.check(model)
    model.head.weight.requires_grad_(False)
    for refuse in (penalty.check, lambda m: penalty(m, F.cross_entropy, *batch(form.fewest))):
        with pytest.raises(ValueError, match=f"{who} needs a l"):
            refuse(model)
    other = SplitNetwork(model.backbone.early, model.backbone.last_stage, nn.Sequential(nn.Linear(D, C)))
    with pytest.raises(ValueError, match=f"{who} needs a linear last layer, not Sequential"):
        penalty.check(other)


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan"), float("inf")])
def test_an_eps_out_of_range_is_named(eps: float) -> None:
    with pytest.raises(ValueError, match=f"eps must be a finite number > 0, got {eps}"):
        NormalisedGradientVariance(eps=eps)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("regularizer=gvr_normalised regularizer.views=1", ">= 2 (or regularizer=gvr_one_view)"),
        ("regularizer=gvr_label_free regularizer.views=1", ">= 2 (or regularizer=gvr_one_view)"),
        ("regularizer=gvr_label_free task=ddpm", "regularizer=gvr_label_free"),
        ("regularizer=gvr_one_view regularizer.penalty.fisher=true task=ddpm", "regularizer=gvr_one_view"),
        ("regularizer=gvr_normalised regularizer.penalty.eps=0", "regularizer.penalty.eps=0"),
    ],
)
def test_mistakes_end_in_one_line(line: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        check(line.split())
    assert said in str(caught.value) and "\n" not in str(caught.value)
