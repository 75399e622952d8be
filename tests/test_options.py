"""Methods and networks with other options than their defaults: frozen parameters, odd images, few rows, many views."""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from test_optimizers import acprop_by_hand
from test_precision import PENALTIES, views_of
from test_task import data, fit, task
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from gvr_lightning import AGR, GradientVariance, last_layer_variance
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.distributed.batch import Shard, product_norm
from gvr_lightning.distributed.batch import balanced_shard as shard
from gvr_lightning.distributed.batch import product_norm_is_cheaper as gram_is_cheaper
from gvr_lightning.instantiate import make
from gvr_lightning.methods.consistency import Consistency
from gvr_lightning.methods.feature_norm import FeatureNorm
from gvr_lightning.methods.generalised_cross_entropy import GeneralisedCrossEntropy
from gvr_lightning.methods.gvr.label_free import LabelFreeGradientVariance
from gvr_lightning.methods.gvr.normalised import NormalisedGradientVariance
from gvr_lightning.methods.gvr.one_view import OneViewGradientVariance
from gvr_lightning.methods.gvr.penalty import PublishedGradientVariance
from gvr_lightning.methods.jensen_shannon import JensenShannon
from gvr_lightning.methods.label_smoothing import LabelSmoothing
from gvr_lightning.methods.passes import forward, frozen_statistics
from gvr_lightning.methods.penalty import NoPenalty, Penalty, RegularizedLoss
from gvr_lightning.methods.sam import SAM, sam_agr
from gvr_lightning.models.resnet import resnet, wide_resnet
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.timm_network import timm_network
from gvr_lightning.optim import schedules

B, C, D = 10, 5, 7


def composed(*overrides: str) -> Any:
    """The project's configuration."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=["name=test", *overrides])


def network(bias: bool = True, features: int = D, classes: int = C, normalised: bool = False) -> SplitNetwork:
    torch.manual_seed(0)
    early: list[nn.Module] = [nn.Linear(6, 9), nn.BatchNorm1d(9) if normalised else nn.Identity(), nn.Tanh()]
    last = [nn.Linear(9, features), nn.BatchNorm1d(features) if normalised else nn.Identity(), nn.Tanh()]
    return SplitNetwork(nn.Sequential(*early), nn.Sequential(*last), nn.Linear(features, classes, bias=bias)).double()


def batch(views: int = 2, rows: int = B, classes: int = C) -> tuple[list[Tensor], Tensor, Tensor]:
    """Views, labels, and keys that put the rows into order."""
    g = torch.Generator().manual_seed(1)
    x = [torch.randn(rows, 6, dtype=torch.float64, generator=g) for _ in range(views)]
    return x, torch.randint(0, classes, (rows,), generator=g), torch.rand(views, rows, generator=g)


def distance(losses: list[Tensor], params: list[nn.Parameter]) -> Tensor:
    """The definition, pair by pair, of the parameters that are trained."""
    params = [p for p in params if p.requires_grad]
    grads = [torch.autograd.grad(loss, params, create_graph=True) for loss in losses]
    pairs = [sum((a - b).square().sum() for a, b in zip(u, v, strict=True)) for u, v in combinations(grads, 2)]
    return sum(pairs) / len(pairs)  # type: ignore[return-value, arg-type]


def assert_same(ours: Tensor, theirs: Tensor, model: nn.Module) -> None:
    """In value, and in the gradient of whatever is trained."""
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10) and theirs > 0
    params = [p for p in model.parameters() if p.requires_grad]
    grads = (torch.autograd.grad(p, params, allow_unused=True, retain_graph=True) for p in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        assert (a - b).norm() <= 1e-9 * b.norm() + 1e-15


# --- parameters that are not trained ---------------------------------------------------------------------------------

FROZEN: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "head's bias": ("head.bias",),
    "head's weight": ("head.weight",),
    "backbone": ("backbone",),
    "early": ("backbone.early",),
    "last stage": ("backbone.last_stage",),
}


def freeze(model: nn.Module, prefixes: tuple[str, ...]) -> nn.Module:
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(prefixes))
    return model


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("layers", ["head", "last_stage", "all", ["*.weight"]], ids=str)
@pytest.mark.parametrize("size", [(D, C), (50, 40)], ids=["matrix", "inner products"])
def test_only_what_is_trained_is_compared(size: tuple[int, int], layers: Any, frozen: str) -> None:
    model, (x, y, _) = freeze(network(True, *size), FROZEN[frozen]), batch(rows=B if size == (D, C) else 3)
    penalty = GradientVariance(layers=layers)
    if layers == "last_stage" and frozen in ("backbone", "last stage"):
        with pytest.raises(ValueError, match="last stage"):
            penalty.check(model)
        return
    penalty.check(model)
    kept = {"head": ("head",), "last_stage": ("head", "backbone.last_stage")}.get(str(layers), ("",))
    params = [
        p for n, p in model.named_parameters() if n.startswith(kept) and (layers != ["*.weight"] or "weight" in n)
    ]
    ours = penalty(model, F.cross_entropy, x, y)
    assert_same(ours.penalty, distance([F.cross_entropy(model(v), y) for v in x], params), model)
    assert [p for p in model.parameters() if p.requires_grad and any(p is q for q in params)] == penalty.parameters(
        model
    )


@pytest.mark.parametrize("bias", ["trained", "frozen", "none"])
def test_each_sample_s_penalty_without_a_bias_that_is_trained(bias: str) -> None:
    model, (x, y, _) = network(bias != "none"), batch()
    freeze(model, ("head.bias",) if bias == "frozen" else ())
    each = [distance([F.cross_entropy(model(v[i : i + 1]), y[i : i + 1]) for v in x], [*model.head.parameters()])
            for i in range(B)]  # fmt: skip
    ours = GradientVariance(per_sample=True)(model, F.cross_entropy, x, y)
    assert_same(ours.penalty, torch.stack(each).mean(), model)


def test_a_head_that_is_not_trained_is_named() -> None:
    model, (x, y, _) = freeze(network(), ("head",)), batch()
    for penalty in (GradientVariance(), GradientVariance(per_sample=True), PublishedGradientVariance()):
        with pytest.raises(ValueError, match="head has no trainable parameter"):
            penalty.check(model)
    with pytest.raises(ValueError, match="head has no trainable parameter"):
        GradientVariance()(model, F.cross_entropy, x, y)
    bias_alone = freeze(network(), ("head.weight",))
    with pytest.raises(ValueError, match="weight is trained"):
        GradientVariance(per_sample=True).check(bias_alone)
    GradientVariance().check(bias_alone)
    with pytest.raises(ValueError, match=r"match none of the model's 4 parameters \(backbone.early.0.weight, backbone"):
        GradientVariance(layers=["head*"]).check(model)


def test_a_run_trains_what_is_not_frozen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = freeze(small_cnn((1, 8, 8), 4, width=8), ("backbone.early", "head.bias"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    penalty = GradientVariance(0.1, layers="last_stage", subset=4, shared=True)
    fit(task(model, penalty=penalty, wrap=AGR, clip_norm=1.0), data(), tmp_path, max_epochs=1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(("backbone.last_stage", "head.weight"))}


# --- rows and views --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [2, 3, 4])
@pytest.mark.parametrize("subset", [None, 1, 3, B, B + 1, 1000])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("layers", ["head", "last_stage", "all"])
def test_the_rows_with_the_smallest_keys_are_looked_at(layers: str, same: bool, subset: int | None, views: int) -> None:
    model, (x, y, keys) = network(), batch(views)
    chosen = [sorted(range(B), key=(keys[0] if same else key).tolist().__getitem__)[:subset] for key in keys]
    assert same or subset not in (1, 3) or len(set(map(tuple, chosen))) > 1
    names = {"head": "head", "last_stage": ("head", "backbone.last_stage"), "all": ""}[layers]
    params = [p for n, p in model.named_parameters() if n.startswith(names)]
    losses = [F.cross_entropy(model(v[rows]), y[rows]) for v, rows in zip(x, chosen, strict=True)]
    ours = GradientVariance(layers=layers, subset=subset, shared=same)(model, F.cross_entropy, x, y, keys)
    assert_same(ours.penalty, distance(losses, params), model)
    assert [one.item() for one in ours.losses] == pytest.approx([F.cross_entropy(model(v), y).item() for v in x])


@pytest.mark.parametrize("rows", [2, 5, B])
@pytest.mark.parametrize("subset", [None, 1, 2, 100])
@pytest.mark.parametrize("layers", ["head", "last_stage"])
def test_halves_and_a_subset_of_each(layers: str, subset: int | None, rows: int) -> None:
    model, (x, y, keys) = network(), batch(1, rows)
    order = keys[0].argsort().tolist()
    halves = [order[: (rows + 1) // 2], order[(rows + 1) // 2 :]]
    ours = GradientVariance(0.5, layers=layers, subset=subset, split=True)(model, F.cross_entropy, x, y, keys)
    few = [F.cross_entropy(model(x[0][half[:subset]]), y[half[:subset]]) for half in halves]
    names = ("head",) if layers == "head" else ("head", "backbone.last_stage")
    theirs = distance(few, [p for n, p in model.named_parameters() if n.startswith(names)])
    assert_same(ours.penalty, theirs, model)
    assert_same(ours.total, sum(F.cross_entropy(model(x[0][h]), y[h]) for h in halves) + theirs / 2, model)
    for half, index, z, target in zip(halves, ours.rows, ours.logits, ours.targets, strict=True):
        assert index is not None and index.tolist() == half
        torch.testing.assert_close(z, model(x[0][half]))
        assert torch.equal(target, y[half])


def test_without_keys_every_row_is_drawn_by_torch_s_generator() -> None:
    model, (x, y, _) = network(), batch(2, 4)
    pairs = {}  # (row of one view, row of the other) -> its penalty
    for i, j in product(range(4), repeat=2):
        losses = [F.cross_entropy(model(v[[row]]), y[[row]]) for v, row in zip(x, (i, j), strict=True)]
        pairs[round(distance(losses, [*model.head.parameters()]).item(), 10)] = (i, j)
    assert len(pairs) == 16

    def drawn(penalty: Penalty) -> tuple[int, int]:
        return pairs[round(penalty(model, F.cross_entropy, x, y).penalty.item(), 10)]

    for shared, expected in ((True, {(i, i) for i in range(4)}), (False, set(pairs.values()))):
        penalty, found = GradientVariance(subset=1, shared=shared), list[tuple[int, int]]()
        torch.manual_seed(3)
        found += [drawn(penalty) for _ in range(120)]
        assert set(found) == expected
        torch.manual_seed(3)
        assert [drawn(penalty) for _ in range(3)] == found[:3]


@pytest.mark.parametrize("views", [2, 3, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_inner_products_of_many_views_of_unequal_rows(reduction: str, bias: bool, views: int) -> None:
    counts, deep, wide = [4, 2, 3, 4][:views], 120, 110
    assert gram_is_cheaper(max(counts), wide, deep, 1, views)
    torch.manual_seed(0)
    head = nn.Linear(deep, wide, bias=bias).double()
    h = [torch.randn(n, deep, dtype=torch.float64, requires_grad=True) for n in counts]
    z = [head(one) for one in h]
    losses = [F.cross_entropy(one, torch.arange(len(one)), reduction=reduction) for one in z]
    ours, theirs = last_layer_variance(losses, z, h, bias), distance(losses, [*head.parameters()])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    for a, b in zip(*(torch.autograd.grad(p, [*h, head.weight], retain_graph=True) for p in (ours, theirs)),
                    strict=True):  # fmt: skip
        assert (a - b).norm() <= 1e-9 * b.norm()


@pytest.mark.parametrize("name", PENALTIES)
def test_a_last_batch_of_one_row(name: str) -> None:
    model, (x, y, _) = network(), batch(views_of(name), 1)
    loss = PENALTIES[name]()(model, F.cross_entropy, x, y)
    assert [one.item() for one in loss.losses] == pytest.approx([F.cross_entropy(model(v), y).item() for v in x])
    assert loss.total.isfinite() and (loss.penalty.abs() > 1e-12) == (name not in ("none", "split", "one_view"))
    loss.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", PENALTIES)
def test_alpha_of_zero_is_the_losses_alone_and_otherwise_a_factor(name: str) -> None:
    model, (x, y, keys) = network(), batch(views_of(name))
    penalty = PENALTIES[name]()
    usual = {"none": 0.0, "label_smoothing": 0.1}.get(name, 0.01)
    for alpha in (usual, 0.0, 3.0):
        penalty.alpha = penalty.alpha if alpha == usual else alpha
        loss = penalty(model, F.cross_entropy, x, y, keys)
        losses = sum(one.item() for one in loss.losses)
        assert loss.total.item() == pytest.approx(losses + alpha * loss.penalty.item(), rel=1e-12)
        assert loss.weighted.item() == pytest.approx(alpha * loss.penalty.item(), rel=1e-12)
    bad = RegularizedLoss([torch.tensor(2.0)], torch.tensor(math.nan), 0.0, [], [], [], [])
    assert bad.total.item() == 2.0 and bad.weighted.item() == 0.0


@pytest.mark.parametrize("name", PENALTIES)
def test_each_view_may_have_a_target_of_its_own(name: str) -> None:
    model, (x, y, keys) = network(), batch(views_of(name))
    own = [(y + i) % C for i in range(len(x))]
    loss = PENALTIES[name]()(model, F.cross_entropy, x, own, keys)
    if name != "split":
        assert [one.item() for one in loss.losses] == pytest.approx(
            [F.cross_entropy(model(v), t).item() for v, t in zip(x, own, strict=True)]
        )
        assert all(torch.equal(a, b) for a, b in zip(loss.targets, own, strict=True))
    if name == "head":
        theirs = distance(
            [F.cross_entropy(model(v), t) for v, t in zip(x, own, strict=True)], [*model.head.parameters()]
        )
        assert_same(loss.penalty, theirs, model)
    with pytest.raises(ValueError, match=rf"got {len(x) + 1} targets for {len(x)} view"):
        PENALTIES[name]()(model, F.cross_entropy, x, [*own, y], keys)


@pytest.mark.parametrize("layers", ["head", "last_stage", "all"])
def test_a_network_in_evaluation_uses_its_running_statistics(layers: str) -> None:
    model, (x, y, _) = network(normalised=True), batch()
    model(5 * x[0] + 2)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = {"head": "head", "last_stage": ("head", "backbone.last_stage"), "all": ""}[layers]
    params = [p for n, p in model.named_parameters() if n.startswith(names)]
    ours = GradientVariance(layers=layers)(model, F.cross_entropy, x, y)
    assert_same(ours.penalty, distance([F.cross_entropy(model(v), y) for v in x], params), model)
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items()) and not model.training


def test_running_statistics_stand_still_and_are_let_go_again() -> None:
    model, x = network(normalised=True), batch()[0][0]
    own = nn.BatchNorm1d(9, track_running_stats=False).double()
    model.backbone.early[1] = own
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyError), frozen_statistics(model):
        y = model(x)
        raise KeyError
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert [m.track_running_stats for m in norms] == [False, True]  # one of the network's own keeps none
    torch.testing.assert_close(model(x), y)  # normalised by the batch all the same
    assert int(model.state_dict()["backbone.last_stage.1.num_batches_tracked"]) == 1


def test_features_of_several_places_go_by_double_backward() -> None:
    model, (x, y, _) = network(), batch()
    model.backbone.last_stage.append(nn.Unflatten(1, (D, 1)))
    model.head = nn.Linear(1, C).double()
    criterion = lambda z, y: F.cross_entropy(z.square().sum(1), y)  # noqa: E731
    ours = GradientVariance()(model, criterion, x, y)
    assert_same(ours.penalty, distance([criterion(model(v), y) for v in x], [*model.head.parameters()]), model)
    with pytest.raises(ValueError, match=r"per_sample needs a linear last layer over \(B, D\) features"):
        GradientVariance(per_sample=True)(model, criterion, x, y)


def test_a_network_without_parts_is_refused_where_it_is_called() -> None:
    x, y, _ = batch()
    with pytest.raises(ValueError, match=r"Linear has no \.backbone and \.head: wrap it in a SplitNetwork"):
        GradientVariance(layers="last_stage")(nn.Linear(6, C).double(), F.cross_entropy, x, y)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at every input's
def test_each_part_of_a_backbone_is_compiled_as_a_whole_and_the_head_is_not() -> None:
    """Also where it is a container of torch's own, of blocks of the project's."""
    graphs: list[int] = []

    def look(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return graph.forward

    torch.compiler.reset()
    model, x = network(), torch.randn(4, 6, dtype=torch.float64)
    model.backbone.early = nn.Sequential(nn.Linear(6, 9), nn.Sequential(nn.Tanh(), nn.Sigmoid())).double()
    expected = model(x)
    model.compile_backbone(backend=look)
    torch.testing.assert_close(model(x), expected)
    assert graphs == [3, 2]  # a linear layer and its activation


class Attention(nn.Module):
    """Of a row's numbers among each other, by torch's fused kernel where it has one."""

    def forward(self, x: Tensor) -> Tensor:
        q = x[:, None, :, None].repeat(1, 1, 1, 8)
        return F.scaled_dot_product_attention(q, q * 2, q + 1)[:, 0].mean(-1)


@pytest.mark.parametrize("name", ["all", "last_stage", "published"])
def test_attention_is_differentiated_twice(name: str) -> None:
    model, (x, y, keys) = network(), batch()
    model.backbone.last_stage.append(Attention())
    penalty = PublishedGradientVariance(subset=B) if name == "published" else GradientVariance(layers=name)
    ours = penalty(model, F.cross_entropy, x, y, keys)
    params = [p for n, p in model.named_parameters() if name == "all" or not n.startswith("backbone.early")]
    with sdpa_kernel(SDPBackend.MATH):
        losses = [F.cross_entropy(model(v), y) for v in x]
    assert_same(ours.penalty, distance(losses, params), model)


def test_dropout_s_masks_are_those_of_the_view_s_own_pass() -> None:
    model, (x, y, _) = network(), batch()
    model.backbone.last_stage.append(nn.Dropout(0.5))
    kept: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    ours = GradientVariance()(model, F.cross_entropy, [x[0], x[0]], y)
    assert len(kept) == 2 and not torch.equal(*kept)
    losses = [F.cross_entropy(F.linear(h, *model.head.parameters()), y) for h in kept]
    assert_same(ours.penalty, distance(losses, [*model.head.parameters()]), model)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("head", ["head.weight", "head.bias"]),
        ("last_stage", ["backbone.last_stage.0.weight", "backbone.last_stage.0.bias", "head.weight", "head.bias"]),
        (["*.bias"], ["backbone.early.0.bias", "backbone.last_stage.0.bias", "head.bias"]),
        (
            ["head.?eight", "backbone.early.[0-9].*"],
            ["backbone.early.0.weight", "backbone.early.0.bias", "head.weight"],
        ),
    ],
    ids=str,
)
def test_layers_by_name(layers: Any, expected: list[str]) -> None:
    model = network()
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in GradientVariance(layers=layers).parameters(model)] == expected
    everything = GradientVariance(layers="all").parameters(model)
    assert [names[id(p)] for p in everything] == list(names.values())
    assert GradientVariance(layers="all").double_backward and PublishedGradientVariance.double_backward
    assert not any(GradientVariance(layers=one).double_backward for one in ("head", "last_stage"))
    for pattern in ("HEAD.*", "head.w", "ead.weight"):
        with pytest.raises(ValueError, match="match none"):
            GradientVariance(layers=[pattern]).check(model)


@pytest.mark.parametrize(
    ("make_penalty", "said"),
    [
        (lambda: GradientVariance(layers="all", head="fc"), r"head is the last layer of layers='head', not of .*'all'"),
        (lambda: GradientVariance(per_sample=True, layers="last_stage"), "per_sample"),
        (lambda: GradientVariance(per_sample=True, split=True), "per_sample"),
        (lambda: GradientVariance(per_sample=True, subset=3), "per_sample"),
        *((partial(kind, subset=0), "subset must be .* got 0")
          for kind in (GradientVariance, PublishedGradientVariance)),
        *((partial(kind, alpha), "alpha must be") for alpha in (-0.1, math.inf, math.nan)
          for kind in (GradientVariance, PublishedGradientVariance, Consistency)),
        *((partial(LabelSmoothing, share), r"smoothing must be in \[0, 1\)") for share in (-0.1, 1.0, math.nan)),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_named(make_penalty: Callable[[], Penalty], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_penalty()
    GradientVariance(per_sample=True, subset=3, shared=True)
    assert GradientVariance(0, subset=1).alpha == PublishedGradientVariance(0, subset=1).alpha == Consistency(0).alpha


def test_the_number_of_views_has_to_fit() -> None:
    model, (x, y, _) = network(), batch()
    for penalty, views in ((GradientVariance(), x[:1]), (GradientVariance(split=True), x), (Consistency(), x[:1])):
        with pytest.raises(ValueError, match=rf"got {len(views)} view"):
            penalty(model, F.cross_entropy, views, y)


WEIGHED: list[Penalty] = [NoPenalty(), LabelSmoothing(), Consistency(2.0), GradientVariance(2.0, per_sample=True)]


def test_the_larger_part_of_a_batch_weighs_more() -> None:
    """As on the process that has four of seven rows: the other one's mean weighs 6/7."""
    model, (x, y, _) = network(), batch(2, 4)
    for penalty in WEIGHED:
        part = penalty(model, F.cross_entropy, x, y, shard=Shard(0, 4, 7, 2))
        alone = penalty(model, F.cross_entropy, x, y)
        assert part.weights == pytest.approx([8 / 7, 8 / 7])
        assert part.penalty.item() == pytest.approx(8 / 7 * alone.penalty.item(), rel=1e-12)
        assert part.total.item() == pytest.approx(8 / 7 * alone.total.item(), rel=1e-12)


class Both(nn.Bilinear):
    """A network that takes a pair."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(*pair)


def test_rows_of_weight_zero_change_nothing() -> None:
    """As on a process that has none of a batch's rows."""
    model, (x, y, _) = network(), batch()
    here = Shard(3, 3, 3, 4)
    for penalty in WEIGHED:
        loss = penalty(model, F.cross_entropy, [v[:0] for v in x], y[:0], shard=here)
        assert loss.total.item() == 0 and loss.weights == [0.0, 0.0]
        model.zero_grad()
        loss.total.backward()
        assert all(p.grad.abs().max() == 0 for p in model.parameters())  # type: ignore[union-attr]
    assert forward(model, x[0][:0]).shape == (0, C)
    both = Both(6, 6, 3).double()
    assert forward(both, (x[0][:0], x[1][:0])).shape == (0, 3) and forward(both, (x[0], x[1])).shape == (B, 3)


@pytest.mark.parametrize("which", ["views", "rows"])
def test_the_published_penalty_looks_at_rows_that_all_views_share(which: str) -> None:
    views, subset = (3, 4) if which == "views" else (2, 1000)
    model, (x, y, keys) = network(), batch(views)
    rows = keys[0].argsort()[:subset]
    params = [*model.backbone.last_stage.parameters(), *model.head.parameters()]
    theirs = distance([F.cross_entropy(model(v[rows]), y[rows]) for v in x], params)
    ours = PublishedGradientVariance(0.5, subset)(model, F.cross_entropy, x, y, keys)
    assert_same(ours.total, sum(F.cross_entropy(model(v), y) for v in x) + theirs / 2, model)
    torch.manual_seed(5)
    drawn = torch.rand(1, B)
    torch.manual_seed(5)
    without = PublishedGradientVariance(0.5, 3)(model, F.cross_entropy, x, y).penalty
    assert without.item() == PublishedGradientVariance(0.5, 3)(model, F.cross_entropy, x, y, drawn).penalty.item()


@pytest.mark.parametrize("name", [path.stem for path in sorted((conf_folder() / "regularizer").glob("*.yaml"))])
def test_a_configured_regularizer_is_the_one_its_line_says(name: str) -> None:
    """40 rows, so that a subset of 32 is one."""
    node = composed(f"regularizer={name}", "alpha=0.3").regularizer
    by_hand: dict[str, Penalty] = {
        "gvr": GradientVariance(0.3),
        "gvr_agr": GradientVariance(0.3),
        "gvr_last_stage": GradientVariance(0.3, "last_stage", 32, shared=True),
        "gvr_per_sample": GradientVariance(0.3, per_sample=True),
        "gvr_split": GradientVariance(0.3, split=True),
        "gvr_normalised": NormalisedGradientVariance(0.3),
        "gvr_label_free": LabelFreeGradientVariance(0.3),
        "gvr_one_view": OneViewGradientVariance(0.3),
        "feature_norm": FeatureNorm(0.3),
        "gvr_published": PublishedGradientVariance(0.3, 32),
        "consistency": Consistency(0.3),
        "consistency_target": Consistency(0.3, detach=True),
        "augmix": JensenShannon(0.3),
        "gce": GeneralisedCrossEntropy(0.7),
        "label_smoothing": LabelSmoothing(0.1),
    }
    compares = name.startswith(("gvr", "consistency")) and name not in ("gvr_split", "gvr_one_view")
    views = 3 if name == "augmix" else 2 if name == "two_view" or compares else 1
    assert node.views == views
    model, (x, y, keys) = network(normalised=True), batch(views, 40)
    ours, theirs = (
        p(model, F.cross_entropy, x, y, keys) for p in (make(node.penalty, ""), by_hand.get(name, NoPenalty()))
    )
    assert (ours.total.item(), ours.penalty.item()) == (theirs.total.item(), theirs.penalty.item())
    wrap, optimizer = make(node.wrap, ""), SGD(model.parameters(), lr=0.1)
    if name in ("agr", "gvr_agr"):
        assert isinstance(wrap(optimizer), AGR) and wrap(optimizer).base is optimizer
    elif name in ("sam", "sam_agr"):
        sam = wrap(optimizer)
        assert isinstance(sam, SAM) and (sam.rho, sam.adaptive, sam.eps) == (0.05, False, 1e-12)
        assert isinstance(sam.base, AGR) == (name == "sam_agr")
    else:
        assert wrap is None


# --- the shares of a batch, and which form is cheaper ----------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_shards_are_consecutive_and_differ_by_one_at_most(processes: int) -> None:
    for total in range(1, 16):
        parts = [shard(total, rank, processes) for rank in range(processes)]
        for part, rows in zip(parts, np.array_split(np.arange(total), processes), strict=True):
            assert list(range(part.start, part.stop)) == rows.tolist()
            assert part.row_count == (len(rows), total, math.ceil(total / processes), processes)
            assert part.row_count.weight == pytest.approx(len(rows) * processes / total)
        rows = torch.randperm(total)[: (total + 1) // 2]
        for part in parts:
            here, share = part.choose(rows)
            mine = [int(r) - part.start for r in rows if part.start <= r < part.stop]
            assert here.tolist() == (mine or [0])
            assert share == (len(mine), len(rows), min(len(rows), math.ceil(total / processes)), processes)


def products(rows: int, classes: int, features: int, views: int) -> tuple[int, int]:
    """Operations that torch counts: for all pairs' inner products, and for all views' matrices."""
    d = [torch.zeros(rows, classes) for _ in range(views)]
    h = [torch.zeros(rows, features) for _ in range(views)]
    with FlopCounterMode(display=False) as gram:
        for u, v in combinations(range(views), 2):
            product_norm(torch.cat([d[u], d[v]]), torch.cat([h[u], h[v]]), 2 * rows)
    with FlopCounterMode(display=False) as dense:
        for a, b in zip(d, h, strict=True):
            _ = a.T @ b
    return gram.get_total_flops(), dense.get_total_flops()


@pytest.mark.parametrize("views", [2, 3, 5])
def test_in_one_process_the_form_with_fewer_operations_is_cheaper(views: int) -> None:
    told = []
    for rows, classes, features in product((1, 2, 4, 7, 8, 9, 16), (8, 16, 40), (8, 32, 64)):
        gram, dense = products(rows, classes, features, views)
        told.append(gram_is_cheaper(rows, classes, features, 1, views))
        assert told[-1] == (gram < dense), (rows, classes, features)
    assert any(told) and not all(told)


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("processes", [2, 8, 64])
def test_over_processes_what_a_ring_sends_counts_too(processes: int, views: int) -> None:
    """A hundred operations a byte; a sum goes round twice, rows go round once."""
    told = []
    for rows, classes, features in product((64, 256, 1024), (10, 100, 1000, 20_000), (64, 512, 2048)):
        here, pairs = rows / processes, views * (views - 1) // 2
        floats = {"dense": 0.0, "gram": 0.0}
        for _ in range(processes - 1):
            floats["dense"] += 2 * (views - 1) * classes * features / processes
            floats["gram"] += pairs * 2 * here * (classes + features)
        operations = {"dense": views * 2 * here * classes * features}
        operations["gram"] = pairs * 2 * (2 * here) * (2 * rows) * (classes + features)
        cost = {form: operations[form] + 400 * floats[form] for form in floats}
        told.append(gram_is_cheaper(rows, classes, features, processes, views))
        assert told[-1] == (cost["gram"] < cost["dense"]), (rows, classes, features)
    assert any(told) and not all(told)


# --- networks --------------------------------------------------------------------------------------------------------

IMAGES = [(1, 8, 8), (3, 9, 14), (1, 16, 6)]  # channels, height, width


class ByHand:
    """A network's layers by torch's functions, on its parameters in their order."""

    def __init__(self, model: nn.Module) -> None:
        self.left = iter(model.parameters())

    def conv(self, x: Tensor, stride: int = 1) -> Tensor:
        w = next(self.left)
        return F.conv2d(x, w, None, stride, w.shape[-1] // 2)

    def norm(self, x: Tensor) -> Tensor:
        """By the batch."""
        return F.batch_norm(x, None, None, next(self.left), next(self.left), True)

    def groups(self, x: Tensor, groups: int) -> Tensor:
        return F.group_norm(self.conv(x), groups, next(self.left), next(self.left)).relu()

    def head(self, x: Tensor) -> Tensor:
        logits = F.linear(x.mean((2, 3)), next(self.left), next(self.left))
        assert not [*self.left], "there are more parameters"
        return logits


def resnet_by_hand(model: nn.Module, x: Tensor, widths: list[int], blocks: int) -> Tensor:
    """He et al. 2015, with projections where the shape changes."""
    net = ByHand(model)
    x, width = net.norm(net.conv(x)).relu(), widths[0]
    for stage, wide in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            residual = net.norm(net.conv(net.norm(net.conv(x, stride)).relu()))
            x = residual + (net.norm(net.conv(x, stride)) if stride == 2 or wide != width else x)
            x, width = x.relu(), wide
    return net.head(x)


def wide_resnet_by_hand(model: nn.Module, x: Tensor, depth: int, widen: int, kept: bool) -> Tensor:
    """Zagoruyko and Komodakis 2016; ``kept``: not all of what the dropout gets is dropped."""
    net, width = ByHand(model), 16
    x = net.conv(x)
    for stage, wide in enumerate((16 * widen, 32 * widen, 64 * widen)):
        for block in range((depth - 4) // 6):
            stride = 2 if stage and not block else 1
            active = net.norm(x).relu()
            residual = net.conv(net.norm(net.conv(active, stride)).relu()) * kept
            x = residual + (net.conv(active, stride) if stride == 2 or wide != width else x)
            width = wide
    return net.head(net.norm(x).relu())


def small_cnn_by_hand(model: nn.Module, x: Tensor, groups: int) -> Tensor:
    net = ByHand(model)
    for stage in range(3):
        x = F.max_pool2d(x, 2, ceil_mode=True) if stage else x
        x = net.groups(net.groups(x, groups), groups)
    return net.head(x)


def shaken(model: nn.Module) -> nn.Module:
    """With parameters that show it where one is left out: a norm's are ones and zeros at first."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.double()


NETWORKS: dict[str, tuple[Callable[..., SplitNetwork], Callable[[nn.Module, Tensor], Tensor], list[int]]] = {
    "resnet": (
        partial(resnet, widths=[4, 4, 6], blocks=2),
        partial(resnet_by_hand, widths=[4, 4, 6], blocks=2),
        [4, 6],
    ),
    "one stage": (partial(resnet, widths=[5], blocks=1), partial(resnet_by_hand, widths=[5], blocks=1), [5, 5]),
    "wide": (
        partial(wide_resnet, depth=16, widen=2),
        partial(wide_resnet_by_hand, depth=16, widen=2, kept=True),
        [64, 128],
    ),
    "all dropped": (
        partial(wide_resnet, depth=10, widen=1, dropout=1.0),
        partial(wide_resnet_by_hand, depth=10, widen=1, kept=False),
        [32, 64],
    ),
    "small_cnn": (partial(small_cnn, width=6, groups=3), partial(small_cnn_by_hand, groups=3), [12, 24]),
}


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_its_layers_by_hand(name: str, shape: tuple[int, int, int]) -> None:
    build, by_hand, (early, last) = NETWORKS[name]
    torch.manual_seed(0)
    model, x = shaken(build(shape, 7)), torch.randn(3, *shape, dtype=torch.float64)
    torch.testing.assert_close(model(x), by_hand(model, x), rtol=1e-9, atol=1e-9)
    entering = model.backbone.early(x)
    halved = 0 if name == "one stage" else 1
    assert entering.shape == (3, early, *(math.ceil(n / 2**halved) for n in shape[1:]))
    assert model.backbone.last_stage(entering).shape == (3, last) and model(x).shape == (3, 7)


@pytest.mark.parametrize("shape", [(3, 9, 14), (1, 16, 6)], ids=str)
@pytest.mark.parametrize("layers", ["head", "last_stage"])
@pytest.mark.parametrize("name", ["resnet", "wide", "small_cnn"])
def test_penalties_of_images_that_are_not_square(name: str, layers: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model, y = NETWORKS[name][0](shape, 7).double(), torch.arange(6) % 7
    x = [torch.randn(6, *shape, dtype=torch.float64) for _ in range(2)]
    ours = GradientVariance(layers=layers)(model, F.cross_entropy, x, y)
    names = {"head": "head", "last_stage": ("head", "backbone.last_stage")}[layers]
    params = [p for n, p in model.named_parameters() if n.startswith(names)]
    theirs = distance([F.cross_entropy(model(v), y) for v in x], params)
    assert ours.penalty.item() == pytest.approx(theirs.item(), rel=1e-9) and theirs > 0


def test_dropout_of_a_wide_network_is_between_its_convolutions_and_in_training_alone() -> None:
    model, x = wide_resnet((1, 8, 8), 4, depth=10, widen=1, dropout=0.4), torch.randn(3, 1, 8, 8)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.4] * 3
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    plain = wide_resnet((1, 8, 8), 4, depth=10, widen=1)
    assert torch.equal(plain(x), plain(x))


@pytest.mark.parametrize("depth", [4, 9, 12, 17])
def test_depths_and_groups_that_do_not_divide(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 4 .*, got {depth}"):
        wide_resnet((3, 8, 8), 10, depth=depth, widen=1)
    with pytest.raises(ValueError, match="groups=3 must divide width=8"):
        small_cnn((3, 8, 8), 10, width=8, groups=3)


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.17), ("resnet20", 0.27), ("wide_resnet", 36.48),
                                                ("small_cnn", 0.29)])  # fmt: skip
def test_a_configured_network_has_the_size_that_is_said(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = make(composed(f"model={name}").model, "", image_shape=(3, 32, 32), num_classes=10)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


# timm's network, its options, image shape, and what of it is the last stage
CUTS: dict[str, tuple[dict[str, Any], tuple[int, int, int], tuple[str, ...]]] = {
    "resnet10t": ({}, (1, 32, 48), ("layer4.",)),
    "convnext_atto": (
        {"dims": (4, 4, 8, 8), "depths": (1, 1, 1, 1), "patch_size": 2},
        (3, 32, 48),
        ("stages.3.", "norm_pre.", "head.norm."),
    ),
    "vit_tiny_patch16_224": (
        {"img_size": (8, 12), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
        (1, 8, 12),
        ("blocks.1.", "norm."),
    ),
    "tf_efficientnet_lite0": ({}, (3, 40, 32), ("blocks.6.", "conv_head.", "bn2.")),
    "mobilenetv3_small_050": ({}, (3, 32, 32), ()),  # a layout that is not known: nothing is cut off
}


@pytest.mark.parametrize("name", CUTS)
def test_timm_networks_are_cut_before_their_last_stage(name: str) -> None:
    options, shape, last = CUTS[name]
    torch.manual_seed(0)
    model = timm_network(shape, 6, name, options=options)
    plain = timm.create_model(name, in_chans=shape[0], num_classes=6, **options)
    classifier = {id(p) for p in plain.get_classifier().parameters()}
    sizes = {n: p.numel() for n, p in plain.named_parameters() if id(p) not in classifier}
    stage = sum(size for n, size in sizes.items() if n.startswith(last))
    assert sum(p.numel() for p in model.backbone.last_stage.parameters()) == (stage if last else 0)
    assert sum(p.numel() for p in model.backbone.early.parameters()) == sum(sizes.values()) - (stage if last else 0)
    x, y = torch.randn(2, *shape), torch.arange(2)
    assert model.training and model(x).shape == (2, 6)
    fresh = timm_network(shape, 6, name, options=options)
    tracked = [value for n, value in fresh.state_dict().items() if n.endswith("num_batches_tracked")]
    assert all(value == 0 for value in tracked), "looking at it leaves no trace"
    loss = GradientVariance(layers="last_stage" if last else "head")(model.eval(), F.cross_entropy, [x, x + 1], y)
    assert loss.total.isfinite() and loss.penalty > 0


def recorded_net(pretrained: bool = False, pretrained_cfg: Any = None, **options: Any) -> nn.Module:
    """A network for timm's registry that notes what it is made with."""
    CALLS.append({"pretrained": pretrained, **options})
    options = {key: value for key, value in options.items() if key in ("in_chans", "num_classes", "stem_width")}
    return timm.models.ResNet(timm.models.resnet.BasicBlock, [1, 1, 1, 1], channels=(4, 4, 4, 4), **options)


CALLS: list[dict[str, Any]] = []
__all__: list[str] = []  # timm adds to it


def test_timm_gets_every_option() -> None:
    timm.models.register_model(recorded_net)
    for settings in ({}, {"pretrained": True, "options": {"stem_width": 8}}):
        timm_network((2, 32, 32), 6, "recorded_net", **settings)  # type: ignore[arg-type]
        wanted = {"pretrained": settings.get("pretrained", False), **settings.get("options", {})}  # type: ignore[dict-item]
        found = {key: CALLS[-1][key] for key in wanted}
        assert found == wanted and (CALLS[-1]["in_chans"], CALLS[-1]["num_classes"]) == (2, 6)


# --- schedules and optimizers ----------------------------------------------------------------------------------------


def between(a: float, b: float, share: float) -> float:
    """A half cosine from a to b."""
    return b + (a - b) * (1 + math.cos(math.pi * share)) / 2


def onecycle(t: int, steps: int, fraction: float, peak: float) -> float:
    up = fraction * steps - 1
    low = peak / 25
    return between(low, peak, t / up) if t <= up else between(peak, low / 1e4, (t - up) / (steps - 1 - up))


CURVES: dict[str, tuple[list[str], str, Callable[[int, float], float]]] = {
    "constant": (["scheduler=constant"], "epoch", lambda t, lr: lr),
    "cosine": (["scheduler=cosine"], "epoch", lambda t, lr: between(lr, 0, t / 5)),
    "cosine, min_lr": (["scheduler=cosine", "scheduler.min_lr=0.01"], "epoch", lambda t, lr: between(lr, 0.01, t / 5)),
    "cosine, step": (
        ["scheduler=cosine", "scheduler.interval=step", "scheduler.min_lr=0.02"],
        "step",
        lambda t, lr: between(lr, 0.02, t / 40),
    ),
    "warmup": (
        ["scheduler=warmup", "scheduler.warmup_steps=7"],
        "step",
        lambda t, lr: lr * min(1.0, (t + 1) / 7),
    ),
    "warmup, then cosine": (
        ["scheduler=warmup_cosine", "scheduler.warmup_steps=7"],
        "step",
        lambda t, lr: lr * (t + 1) / 7 if t < 7 else between(lr, 0, (t - 7) / 33),
    ),
    "warmup longer than the run": (
        ["scheduler=warmup_cosine"],
        "step",
        lambda t, lr: lr * (t + 1) / 200,
    ),
    "onecycle": (["scheduler=onecycle"], "step", lambda t, lr: onecycle(t, 40, 0.3, lr)),
    "onecycle, later": (
        ["scheduler=onecycle", "scheduler.warmup_fraction=0.6"],
        "step",
        lambda t, lr: onecycle(t, 40, 0.6, lr),
    ),
    "onecycle, at once": (
        ["scheduler=onecycle", "scheduler.warmup_fraction=0"],
        "step",
        lambda t, lr: onecycle(t, 40, 2 / 40, lr),
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_schedule_s_whole_curve(name: str) -> None:
    """Of two groups with learning rates of their own, in a run of 5 epochs and 40 updates."""
    overrides, interval, curve = CURVES[name]
    rates = 0.1, 0.4
    optimizer = SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in rates], momentum=0.9)
    schedule = make(composed(*overrides).scheduler, "")(optimizer, steps=40, epochs=5)
    assert schedule.interval == interval
    for t in range(5 if interval == "epoch" else 40):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [curve(t, lr) for lr in rates], rel=1e-9
        )
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
        optimizer.step()
        schedule.scheduler.step()


def test_schedules_of_very_short_runs() -> None:
    peak, low = 0.1, 0.1 / 25
    for steps, expected in ((1, [low]), (2, [low, (low + peak) / 2]), (3, [low, peak, low / 1e4])):
        optimizer = SGD([nn.Parameter(torch.ones(1))], lr=peak)
        scheduler, _ = schedules.onecycle(optimizer, steps, 1)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates == pytest.approx(expected)
    assert [schedules.WarmupFactor(2, 4)(t) for t in range(7)] == pytest.approx([0.5, 1, 1, 0.5, 0, 0, 0], abs=1e-12)
    assert [schedules.WarmupFactor(2, 2)(t) for t in range(4)] == pytest.approx([0.5, 1, 1, 0], abs=1e-12)
    assert [schedules.WarmupFactor(0)(t) for t in range(2)] == [1, 1]


@pytest.mark.parametrize("regularizer", ["sam", "sam_agr"])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("rho", "eps"), [(0.05, 1e-12), (0.7, 1e-12), (0.7, 3.0)])
def test_sam_s_options_reach_its_step(rho: float, eps: float, adaptive: bool, regularizer: str) -> None:
    settings = [f"regularizer.wrap.rho={rho}", f"regularizer.wrap.adaptive={adaptive}", f"+regularizer.wrap.eps={eps}"]
    p, seen = nn.Parameter(torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)), []
    start, grads = p.detach().clone(), torch.tensor([[1.0, 2.0, -2.0], [0.5, -0.25, 0.25]], dtype=torch.float64)

    def closure() -> None:
        seen.append(p.detach().clone())
        p.grad = grads[len(seen) - 1].clone()

    make(composed(f"regularizer={regularizer}", *settings).regularizer.wrap, "")(SGD([p], lr=0.1)).step(closure)
    scale = start.abs() if adaptive else torch.ones_like(start)
    climbed = rho * scale**2 * grads[0] / ((scale * grads[0]).norm() + eps)
    torch.testing.assert_close(seen[1], start + climbed, rtol=1e-12, atol=0)
    used = grads[1] * (1 - grads[1].abs()) if regularizer == "sam_agr" else grads[1]  # their sizes add up to one
    torch.testing.assert_close(p.detach(), start - 0.1 * used, rtol=1e-12, atol=0)


def test_sam_s_usual_settings_in_a_loop_of_one_s_own() -> None:
    for wrap in (SAM, sam_agr):
        made = wrap(SGD([nn.Parameter(torch.ones(2))], lr=0.1))
        assert (made.rho, made.adaptive, made.eps) == (0.05, False, 1e-12)


ACPROP: dict[str, Any] = {
    "lr": 0.03,
    "betas": (0.6, 0.95),
    "eps": 1e-4,
    "weight_decay": 0.2,
    "decoupled": False,
    "rectify": False,
    "degenerate_to_sgd": False,
    "momentum_update": True,
}


@pytest.mark.parametrize("option", [*ACPROP, "nothing"])
def test_acprop_s_options_reach_its_steps(option: str) -> None:
    changed = {option: ACPROP[option]} if option in ACPROP else {}
    changed |= {"weight_decay": 0.2} if option == "decoupled" else {}  # what of it is decoupled
    said = [f"optimizer.{k}={list(v) if isinstance(v, tuple) else v}" for k, v in changed.items() if k != "lr"]
    lr = changed.pop("lr", 0.001)
    said += [f"lr={lr}"] if option == "lr" else []
    p = nn.Parameter(torch.tensor([1.5], dtype=torch.float64))
    optimizer = make(composed("optimizer=acprop", *said).optimizer, "")([p])
    gradient = lambda q, t: q + math.sin(t)  # noqa: E731
    found = []
    for t in range(1, 13):
        p.grad = torch.tensor([gradient(p.item(), t)], dtype=torch.float64)
        optimizer.step()
        found.append(p.item())
    paths = [[q for q, _ in acprop_by_hand(1.5, gradient, [lr] * 12, **options)] for options in (changed, {})]
    assert found == pytest.approx(paths[0], rel=1e-12)
    assert paths[0] != paths[1] or option in ("lr", "nothing")
