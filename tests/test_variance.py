"""The penalty's mathematics: closed forms against double backward and against plain loops, float64."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gvr_lightning import GradientVariance, gradient_variance, last_layer_variance
from gvr_lightning.distributed.batch import product_norm_is_cheaper as gram_is_cheaper
from gvr_lightning.methods.gvr.variance import per_sample_variance
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.split import SplitNetwork

B, C, D = 12, 5, 7


def soft(target: Tensor) -> Tensor:
    return F.one_hot(target, C).double() * 0.8 + 0.2 / C


CRITERIA = {
    "cross_entropy": F.cross_entropy,
    "smoothed": partial(F.cross_entropy, label_smoothing=0.1),
    "sum": partial(F.cross_entropy, reduction="sum"),
    "weighted": partial(F.cross_entropy, weight=torch.linspace(0.5, 2, C, dtype=torch.float64)),
    "soft": lambda z, y: F.cross_entropy(z, soft(y)),
    "mse": lambda z, y: F.mse_loss(z, soft(y)),
    "mse_sum": lambda z, y: F.mse_loss(z, soft(y), reduction="sum"),
}


def network(bias: bool) -> SplitNetwork:
    torch.manual_seed(0)
    early, last = nn.Sequential(nn.Linear(6, 9), nn.Tanh()), nn.Sequential(nn.Linear(9, D), nn.Tanh())
    return SplitNetwork(early, last, nn.Linear(D, C, bias=bias)).double()


def batch(views: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = [torch.randn(B, 6, dtype=torch.float64, generator=generator) for _ in range(views)]
    return x, torch.randint(0, C, (B,), generator=generator)


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def by_definition(losses: list[Tensor], params: list[Tensor]) -> Tensor:
    """The mean over all pairs, term by term."""
    grads = [torch.autograd.grad(loss, params, create_graph=True) for loss in losses]
    pairs = [(u, v) for u in range(len(grads)) for v in range(u)]
    terms = [sum((a - b).square().sum() for a, b in zip(grads[u], grads[v], strict=True)) for u, v in pairs]
    return sum(terms) / len(terms)


def assert_same(ours: Tensor, theirs: Tensor, model: nn.Module) -> None:
    """Value and the gradient of every parameter, to 1e-10 of the gradient's size."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert theirs > 0
    for a, b in zip(gradients(ours, model), gradients(theirs, model), strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm() + 1e-16


def test_sums_are_rounded_alike_wherever_autograd_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a backward pass has a thread of its own, which numbers nodes apart, and they run by their numbers."""
    torch.manual_seed(0)
    model, penalty = small_cnn((1, 8, 8), C, 8, 4), GradientVariance(1.0, layers="last_stage")
    views, target, grad = [torch.randn(B, 1, 8, 8) for _ in range(2)], torch.randint(0, C, (B,)), torch.autograd.grad

    def in_another_thread(*arguments: Any, **named: Any) -> Any:
        if not torch._C._is_multithreading_enabled():
            return grad(*arguments, **named)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(grad, *arguments, **named).result()

    def gradients_of_all() -> list[Tensor]:
        return gradients(penalty(model, F.cross_entropy, views, target).total, model)

    here = gradients_of_all()
    monkeypatch.setattr(torch.autograd, "grad", in_another_thread)
    assert all(map(torch.equal, here, gradients_of_all()))


def test_a_loss_of_other_logits_is_named() -> None:
    z = [torch.randn(B, C, requires_grad=True) for _ in range(3)]
    with pytest.raises(ValueError, match="a loss does not depend on its logits"):
        last_layer_variance([z[0].sum(), z[2].sum()], z[:2], [torch.randn(B, D) for _ in range(2)])


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CRITERIA)
def test_closed_form_equals_double_backward(name: str, bias: bool, views: int) -> None:
    model, (x, y), criterion = network(bias), batch(views), CRITERIA[name]
    h = [model.backbone(v) for v in x]
    z = [model.head(f) for f in h]
    losses = [criterion(v, y) for v in z]
    expected = by_definition(losses, list(model.head.parameters()))
    assert_same(gradient_variance(losses, model.head.parameters()), expected, model)
    assert_same(last_layer_variance(losses, z, h, bias), expected, model)
    assert_same(GradientVariance()(model, criterion, x, y).penalty, expected, model)


def rows_of(keys: Tensor, v: int, n: int) -> Tensor:
    """The n rows with the smallest keys, by sorting in Python."""
    return torch.tensor(sorted(range(B), key=lambda i: float(keys[v][i]))[:n])


@pytest.mark.parametrize("layers", ["head", "last_stage", "all", ["backbone.early.*"]])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("name", ["cross_entropy", "sum", "weighted"])
def test_subsets_of_any_layers(name: str, same: bool, layers: str | list[str]) -> None:
    model, (x, y), criterion = network(True), batch(3), CRITERIA[name]
    keys = torch.rand(3, B, generator=torch.Generator().manual_seed(2))
    rows = [rows_of(keys, 0 if same else v, 5) for v in range(3)]
    losses = [criterion(model(v[r]), y[r]) for v, r in zip(x, rows, strict=True)]
    prefix = {"head": ("head",), "last_stage": ("head", "backbone.last_stage"), "all": ("",)}
    wanted = prefix.get(str(layers), ("backbone.early",))
    expected = by_definition(losses, [p for n, p in model.named_parameters() if n.startswith(wanted)])
    ours = GradientVariance(layers=layers, subset=5, shared=same)(model, criterion, x, y, keys)
    assert_same(ours.penalty, expected, model)


def test_split_takes_each_view_on_its_own_half() -> None:
    model, (x, y) = network(True), batch(1)
    keys = torch.rand(1, B, generator=torch.Generator().manual_seed(2))
    order = rows_of(keys, 0, B)
    losses = [F.cross_entropy(model(x[0][half]), y[half]) for half in (order[: B // 2], order[B // 2 :])]
    ours = GradientVariance(alpha=0.3, split=True)(model, F.cross_entropy, x, y, keys)
    assert_same(ours.penalty, by_definition(losses, list(model.head.parameters())), model)
    assert_same(ours.total, sum(losses) + 0.3 * by_definition(losses, list(model.head.parameters())), model)


def test_split_of_a_single_row_is_its_loss() -> None:
    model, (x, y) = network(True), batch(1)
    ours = GradientVariance(split=True)(model, F.cross_entropy, [x[0][:1]], y[:1])
    torch.testing.assert_close(ours.total, F.cross_entropy(model(x[0][:1]), y[:1]))


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CRITERIA)
def test_per_sample_equals_a_loop_over_samples(name: str, bias: bool, views: int) -> None:
    model, (x, y), criterion = network(bias), batch(views), CRITERIA[name]
    each = []
    for i in range(B):
        losses = [criterion(model(v[i : i + 1]), y[i : i + 1]) for v in x]
        each.append(by_definition(losses, list(model.head.parameters())))
    expected = sum(each) / B
    assert_same(GradientVariance(per_sample=True)(model, criterion, x, y).penalty, expected, model)


def test_per_sample_does_not_cancel_in_float32() -> None:
    """Views that all but agree: the textbook formula |a|^2 + |b|^2 - 2 a.b loses every digit."""
    torch.manual_seed(0)
    z, h, y = torch.randn(B, C), 30 * torch.randn(B, D), torch.arange(B) % C
    z2, h2 = z + 1e-5 * torch.randn(B, C), h + 1e-5 * torch.randn(B, D)
    exact = per_sample_variance(
        F.cross_entropy, *([t.double().requires_grad_() for t in pair] for pair in ((z, z2), (h, h2))), [y, y]
    )
    ours = per_sample_variance(F.cross_entropy, [z.requires_grad_(), z2.requires_grad_()], [h, h2], [y, y])
    assert ours > 0
    torch.testing.assert_close(ours.double(), exact, rtol=2e-2, atol=0)


@pytest.mark.parametrize("layers", ["head", "last_stage"])
def test_float32_under_autocast(layers: str) -> None:
    """Half precision in the network; the penalty of what it puts out is float32's."""
    torch.manual_seed(0)
    model, x, y = small_cnn((1, 8, 8), 10, width=8), [torch.randn(16, 1, 8, 8) for _ in range(2)], torch.arange(16) % 10
    gvr = GradientVariance(layers=layers)
    with torch.autocast("cpu", torch.bfloat16):
        ours = gvr(model, F.cross_entropy, x, y)
        entering = [model.backbone.early(v).float() for v in x]
    assert ours.penalty.dtype == torch.float32 and ours.logits[0].dtype == torch.float32
    if layers == "last_stage":  # the last stage runs again, in float32
        losses = [F.cross_entropy(model.head(model.backbone.last_stage(u)), y) for u in entering]
        params = [*model.backbone.last_stage.parameters(), *model.head.parameters()]
        torch.testing.assert_close(ours.penalty, by_definition(losses, params), rtol=1e-5, atol=0)
    ours.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_gradient_variance_is_float32_for_half_parameters() -> None:
    w = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [(w @ torch.randn(3, dtype=torch.bfloat16)).square().sum() for _ in range(2)]
    assert gradient_variance(losses, [w]).dtype == torch.float32


def test_a_parameter_that_one_view_does_not_use_has_gradient_zero_there() -> None:
    a, b = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    penalty = gradient_variance([a.square().sum(), a.sum() + b.sum()], [a, b])
    torch.testing.assert_close(penalty, torch.tensor((4.0 - 1) ** 2 + (6.0 - 1) ** 2 + 1))


def test_bad_calls_say_what_is_wrong() -> None:
    w = torch.ones(2, requires_grad=True)
    for losses, params, message in (
        ([w.sum()], [w], "two views"),
        ([w.sum(), w], [w], "scalar"),
        ([w.sum(), w.sum()], [], "parameter"),
        ([w.sum(), w.sum()], [torch.ones(1, requires_grad=True)], "takes part"),
    ):
        with pytest.raises(ValueError, match=message):
            gradient_variance(losses, params)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(6, 6), (6, 4), (3, 3, 3)], ids=str)
def test_wide_layers_by_inner_products(bias: bool, rows: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    wide, deep = 60, 50
    assert gram_is_cheaper(max(rows), wide, deep, 1, len(rows))
    head = nn.Linear(deep, wide, bias=bias).double()
    features = [torch.randn(n, deep, dtype=torch.float64, requires_grad=True) for n in rows]
    targets = [torch.randint(0, wide, (n,)) for n in rows]
    logits = [head(h) for h in features]
    losses = [F.cross_entropy(z, y) for z, y in zip(logits, targets, strict=True)]
    by_definition = gradient_variance(losses, head.parameters())
    with Largest() as largest:
        ours = last_layer_variance(losses, logits, features, bias)
    assert largest.numel < wide * deep
    torch.testing.assert_close(ours, by_definition, rtol=1e-10, atol=0)
    for a, b in zip(*(torch.autograd.grad(p, features, retain_graph=True) for p in (ours, by_definition)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12 * float(b.abs().max()))


def test_inner_products_do_not_cancel_where_views_agree() -> None:
    torch.manual_seed(0)
    h = torch.randn(4, 50)
    z = torch.randn(4, 60, requires_grad=True)
    near = [h, h + 1e-4 * torch.randn(4, 50)]
    values = []
    for dtype in (torch.float32, torch.float64):
        logits = [z.to(dtype), (z + 1e-4).to(dtype) * (1 + 1e-5)]
        losses = [F.cross_entropy(x, torch.arange(4)) for x in logits]
        values.append(last_layer_variance(losses, logits, [x.to(dtype) for x in near]).item())
    assert values[0] == pytest.approx(values[1], rel=1e-2)


def test_the_cheaper_form_is_chosen() -> None:
    assert not gram_is_cheaper(128, 10, 512)  # CIFAR-10's head
    assert gram_is_cheaper(128, 21_841, 2048)
    assert gram_is_cheaper(256, 1000, 2048, processes=8)
    assert not gram_is_cheaper(32_768, 1000, 2048, processes=1024)
