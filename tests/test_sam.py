"""SAM: steps against a reference in plain arithmetic, and its two passes within a task."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_task import assert_equal, data, fit, task
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from gvr_lightning.config.check import check
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.errors import UserError
from gvr_lightning.methods import agr
from gvr_lightning.methods.agr import AGR
from gvr_lightning.methods.penalty import NoPenalty, RegularizedLoss
from gvr_lightning.methods.sam import SAM, sam_agr
from gvr_lightning.models.resnet import resnet

Weights = list[Tensor]
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9),
    "adam": partial(Adam, lr=0.01),
}


def start() -> Weights:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, generator=g) for shape in ((4, 5), (5,), (5, 2), (1,))]


def loss_of(w: Weights, step: int) -> Tensor:
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    return ((torch.tanh(x @ w[0] + w[1]) @ w[2] * w[3] - x[:, :2] ** 2) ** 2).mean()


def grads_of(w: Weights, step: int) -> Weights:
    w = [t.clone().requires_grad_() for t in w]
    return list(torch.autograd.grad(loss_of(w, step), w))


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(t) for t in start()]


def closure_of(params: list[nn.Parameter], step: int, calls: list[int] | None = None) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        for p in params:
            p.grad = None
        loss = loss_of(params, step)  # type: ignore[arg-type]
        loss.backward()
        if calls is not None:
            calls.append(step)
        return loss

    return closure


def there(w: Weights, g: Weights, rho: float, adaptive: bool) -> Weights:
    """W + e(w), entry by entry in Python floats."""
    t = [[abs(x) if adaptive else 1.0 for x in a.flatten().tolist()] for a in w]
    flat = [a.flatten().tolist() for a in g]
    norm = sum((x * s) ** 2 for a, b in zip(flat, t, strict=True) for x, s in zip(a, b, strict=True)) ** 0.5 + 1e-12
    e = [[rho * s**2 * x / norm for x, s in zip(a, b, strict=True)] for a, b in zip(flat, t, strict=True)]
    return [a + torch.tensor(b, dtype=a.dtype).view(a.shape) for a, b in zip(w, e, strict=True)]


def rescaled(g: Weights) -> Weights:
    return [a * (1 - a.abs() / a.abs().sum()) if a.numel() > 1 else a for a in g]


def reference(
    name: str, steps: int, rho: float, adaptive: bool, climb: Any = lambda g: g, descend: Any = lambda g: g
) -> Weights:
    """SAM over SGD with momentum or over Adam, both by hand."""
    w, m, v = start(), [torch.zeros_like(t) for t in start()], [torch.zeros_like(t) for t in start()]
    for step in range(steps):
        g = descend(grads_of(there(w, climb(grads_of(w, step)), rho, adaptive), step))
        for i in range(len(w)):
            if name == "sgd":
                m[i] = 0.9 * m[i] + g[i]
                w[i] = w[i] - 0.1 * m[i]
            else:
                m[i], v[i] = 0.9 * m[i] + 0.1 * g[i], 0.999 * v[i] + 0.001 * g[i] ** 2
                t = step + 1
                w[i] = w[i] - 0.01 * m[i] / (1 - 0.9**t) / ((v[i] / (1 - 0.999**t)) ** 0.5 + 1e-8)
    return w


def train(optimizer: Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        optimizer.step(closure_of(params, step))


def close(params: list[nn.Parameter], w: Weights, rtol: float = 1e-12) -> None:
    for p, q in zip(params, w, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=rtol, atol=rtol)


# --- the wrapper -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rho", "adaptive"), [(0.05, False), (0.5, True)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twelve_steps_equal_the_reference(name: str, rho: float, adaptive: bool) -> None:
    params, plain = parameters(), parameters()
    train(SAM(OPTIMIZERS[name](params), rho, adaptive), params, range(12))
    close(params, reference(name, 12, rho, adaptive))
    train(OPTIMIZERS[name](plain), plain, range(12))
    assert not torch.allclose(params[0], plain[0], rtol=1e-3)


def test_with_agr_in_either_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = agr.agr_
    monkeypatch.setattr(agr, "agr_", lambda grads, *by: (calls.append(1), original(grads, *by))[1])
    inner, outer, plain = parameters(), parameters(), parameters()
    train(sam_agr(OPTIMIZERS["sgd"](inner), rho=0.5), inner, range(10))
    assert len(calls) == 10  # of the update's gradients only
    close(inner, reference("sgd", 10, 0.5, False, descend=rescaled))
    train(AGR(SAM(OPTIMIZERS["sgd"](outer), rho=0.5)), outer, range(10))
    assert len(calls) == 30  # after each call of the closure: it climbs along regularized gradients
    close(outer, reference("sgd", 10, 0.5, False, climb=rescaled, descend=rescaled))
    train(SAM(OPTIMIZERS["sgd"](plain), rho=0.5), plain, range(10))
    assert not any(torch.allclose(a[0], b[0], rtol=1e-3) for a, b in ((inner, outer), (inner, plain), (outer, plain)))


def test_the_first_loss_is_returned_and_the_weights_are_exactly_those_before() -> None:
    params = parameters()
    seen: list[Weights] = []
    closure = closure_of(params, 0)
    optimizer = SAM(SGD(params, lr=0.0))
    loss = optimizer.step(lambda: (seen.append([p.detach().clone() for p in params]), closure())[1])
    assert loss.item() == loss_of(start(), 0).item() and len(seen) == 2
    e = torch.cat([(b - a).flatten() for a, b in zip(*seen, strict=True)])
    assert e.norm().item() == pytest.approx(0.05, rel=1e-9)
    assert all(torch.equal(p, q) for p, q in zip(params, start(), strict=True))


def test_a_second_call_that_raises_leaves_the_weights() -> None:
    params = parameters()
    calls: list[int] = []

    def closure() -> Tensor:
        if calls:
            raise InterruptedError
        return closure_of(params, 0, calls)()

    with pytest.raises(InterruptedError):
        SAM(SGD(params, lr=0.1)).step(closure)
    assert all(torch.equal(p, q) for p, q in zip(params, start(), strict=True))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-12])
@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan"), 1e30])
def test_a_gradient_without_a_direction_is_not_followed(bad: float, eps: float, adaptive: bool) -> None:
    """All zero, or not finite: the update uses the gradients here. Squares that float32 cannot hold are no problem."""
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    seen = []

    def closure() -> None:
        seen.append(p.detach().tolist())
        p.grad = torch.tensor([bad, 0.0 if bad == 0 else 1.0]) if len(seen) == 1 else torch.ones(2)

    SAM(SGD([p], lr=0.5), 0.1, adaptive, eps).step(closure)
    assert seen[1] == (pytest.approx([1.1, -2.0]) if bad == 1e30 else [1.0, -2.0])
    assert p.tolist() == [0.5, -2.5]


@pytest.mark.usefixtures("fake_gpu")
def test_nothing_is_read_back_from_a_gpu() -> None:
    """A fake GPU tensor has no values: reading one raises."""
    with FakeTensorMode():
        params = [nn.Parameter(torch.empty(3, 3, device="cuda", dtype=t)) for t in (torch.float32, torch.bfloat16)]

        def closure() -> None:
            for p in params:
                p.grad = torch.empty_like(p)

        for adaptive in (False, True):
            SAM(SGD(params, lr=0.1), adaptive=adaptive).step(closure)


def test_without_any_gradient_there_is_no_second_call() -> None:
    params = parameters()
    calls: list[int] = []
    optimizer = SAM(SGD(params, lr=0.1, momentum=0.9))
    optimizer.step(lambda: calls.append(1))
    assert calls == [1] and not optimizer.state
    params[0].requires_grad_(False)
    train(optimizer, params, range(3))
    assert torch.equal(params[0], start()[0]) and not torch.equal(params[1], start()[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_kinds_of_numbers(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.tensor([3.0, -4.0], dtype=dtype))
    seen = []

    def closure() -> None:
        seen.append(p.detach().clone())
        p.grad = torch.full_like(p, 1e-4)  # its square is zero in float16

    SAM(SGD([p], lr=0.0), 2.0, adaptive=True).step(closure)
    torch.testing.assert_close(seen[1], torch.tensor([3 + 2 * 9 / 5, -4 + 2 * 16 / 5], dtype=dtype))


def test_it_owns_nothing_but_its_settings() -> None:
    params, twins = parameters(), parameters()
    base = Adam(params, lr=0.01)
    optimizer = SAM(base, rho=0.1)
    train(optimizer, params, range(3))
    assert isinstance(optimizer, Optimizer) and optimizer.state is base.state
    assert optimizer.param_groups is base.param_groups and optimizer.defaults is base.defaults
    assert set(vars(optimizer)) == {"base", "rho", "adaptive", "eps"} and "SAM(Adam" in repr(optimizer)
    state, plain = optimizer.state_dict(), base.state_dict()
    assert state.keys() == plain.keys() and state["param_groups"] == plain["param_groups"]
    assert [e.keys() for e in state["state"].values()] == [e.keys() for e in plain["state"].values()]
    other = Adam(twins, lr=1.0)
    other.load_state_dict(copy.deepcopy(state))  # momentum goes over to a plain optimizer, and back
    for p, q in zip(twins, params, strict=True):
        p.data.copy_(q.data)
    train(SAM(other, rho=0.1), twins, range(3, 6))
    train(optimizer, params, range(3, 6))
    close(twins, params, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_deepcopy_pickle_and_schedulers(copy_of: Callable) -> None:
    params = parameters()
    optimizer = sam_agr(SGD(params, lr=0.1, momentum=0.9), 0.3, True, 1e-9)
    schedule = CosineAnnealingLR(optimizer, 20)
    train(optimizer, params, range(3))
    twins, twin = copy_of((params, optimizer))
    assert (type(twin), type(twin.base), twin.rho, twin.adaptive, twin.eps) == (SAM, AGR, 0.3, True, 1e-9)
    train(twin, twins, range(3, 6))
    train(optimizer, params, range(3, 6))
    close(twins, params, 0.0)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] < 0.1 == twin.param_groups[0]["lr"]


def test_what_it_does_not_take() -> None:
    optimizer = SAM(SGD(parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match=r"step\(closure\)"):
        optimizer.step()
    for wrong in (SGD, None, parameters(), optimizer):
        with pytest.raises(TypeError, match=r"^SAM wraps an instance of torch\.optim\.Optimizer, not \w+$"):
            SAM(wrong)  # type: ignore[arg-type]
    for setting in ({"rho": -0.1}, {"rho": float("nan")}, {"eps": float("inf")}):
        with pytest.raises(ValueError, match=r"^SAM: (rho|eps)=.* must be"):
            SAM(SGD(parameters(), lr=0.1), **setting)  # type: ignore[arg-type]


# --- within a task ---------------------------------------------------------------------------------------------------


def batchnorm_network() -> nn.Module:
    torch.manual_seed(0)
    return resnet((1, 8, 8), 4, [4, 4], 1)


def by_hand(model: nn.Module, source: ViewsDataModule, rho: float, change: Any = lambda params: None) -> nn.Module:
    """The tasks' training without Lightning and SAM; BatchNorm's buffers are put back after the second pass."""
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    here = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0))))
    for epoch in range(2):
        source.trainer = SimpleNamespace(current_epoch=epoch, fit_loop=here)  # type: ignore[assignment]
        for index in source.train_dataloader():
            batch = source.batches.training(index, epoch)
            params = list(model.parameters())
            before = [p.detach().clone() for p in params]
            for pass_ in range(2):
                optimizer.zero_grad()
                sum(F.cross_entropy(model(view), batch.target) for view in batch.views).backward()  # type: ignore[union-attr]
                change(params)
                if pass_ == 0:
                    buffers = [b.clone() for b in model.buffers()]
                    norm = torch.cat([p.grad.flatten() for p in params]).norm()  # type: ignore[union-attr]
                    for p in params:
                        p.data += rho * p.grad / norm
            for tensors, kept in ((params, before), (list(model.buffers()), buffers)):
                for tensor, value in zip(tensors, kept, strict=True):
                    tensor.data.copy_(value)
            optimizer.step()
    return model


def test_batchnorm_s_statistics_are_those_of_the_first_pass(tmp_path: Path) -> None:
    ours = task(batchnorm_network(), penalty=NoPenalty(), wrap=partial(SAM, rho=0.2))
    trainer = fit(ours, data(), tmp_path)
    assert trainer.global_step == 6
    state = ours.model.state_dict()
    tracked = [name for name in state if name.endswith("num_batches_tracked")]
    assert tracked and all(state[name] == 12 for name in tracked)  # six updates, two views
    assert_equal(ours.model, by_hand(batchnorm_network(), data(), 0.2), 1e-5)
    assert all(m.track_running_stats for m in ours.model.modules() if isinstance(m, nn.BatchNorm2d))


def test_climbing_nowhere_is_plain_training(tmp_path: Path) -> None:
    """Bit for bit, with BatchNorm and dropout: the second pass has the first's masks, and leaves no trace."""
    runs = []
    for wrap in (None, partial(SAM, rho=0.0)):
        model = batchnorm_network()
        model.head = nn.Sequential(nn.Dropout(0.5), model.head)  # type: ignore[arg-type]
        runs.append(task(model, penalty=NoPenalty(), wrap=wrap, accumulate=2))
        fit(runs[-1], data(), tmp_path)
    assert_equal(runs[0].model, runs[1].model, 0.0)


def test_every_pass_is_clipped(tmp_path: Path) -> None:
    """The value's clipping bends the way up too; the norm's does not."""
    for options, change in [
        ({"clip_norm": 0.05}, lambda params: nn.utils.clip_grad_norm_(params, 0.05)),
        ({"clip_value": 1e-3}, lambda params: nn.utils.clip_grad_value_(params, 1e-3)),
    ]:
        ours = task(penalty=NoPenalty(), wrap=partial(SAM, rho=0.2), **options)
        fit(ours, data(), tmp_path)
        assert_equal(ours.model, by_hand(task().model, data(), 0.2, change), 1e-5)


def test_accumulation_is_the_whole_batch_s(tmp_path: Path) -> None:
    runs = [task(penalty=NoPenalty(), wrap=partial(SAM, rho=0.2), accumulate=n) for n in (1, 3)]
    assert [fit(run, data(50), tmp_path).global_step for run in runs] == [8, 8]
    assert_equal(runs[0].model, runs[1].model, 1e-5)


class NotFinite(NoPenalty):
    """NaN losses in one of its calls; keeps the network's state as it is before each."""

    def __init__(self, call: int) -> None:
        self.call, self.states = call, []

    def __call__(self, model: nn.Module, *arguments: Any) -> RegularizedLoss:  # type: ignore[override]
        self.states.append(copy.deepcopy(model.state_dict()))
        loss = super().__call__(model, *arguments)
        if len(self.states) == self.call:
            loss.losses = [value * float("nan") for value in loss.losses]
        return loss


@pytest.mark.parametrize("call", [3, 4])  # the first and the second pass of the second update
def test_an_update_whose_passes_are_not_both_finite_is_skipped(tmp_path: Path, call: int) -> None:
    penalty = NotFinite(call)
    ours = task(batchnorm_network(), penalty=penalty, wrap=partial(SAM, rho=0.2), non_finite="skip")
    fit(ours, data(), tmp_path, max_epochs=1)
    assert ours.non_finite.skipped == 1 and len(penalty.states) == call + 2
    before, after = penalty.states[2], penalty.states[call]  # what the second update, and the third, began with
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(value.isfinite().all() for value in ours.model.state_dict().values())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("regularizer=sam trainer.precision=16-mixed", "bf16-mixed"),
        ("regularizer=sam_agr trainer.precision=16", "bf16-mixed"),
        ("regularizer=sam regularizer.wrap.rho=0", "regularizer.wrap.rho=0"),
        ("regularizer=sam regularizer.wrap.adaptive=2", "regularizer.wrap.adaptive=2"),
        ("regularizer=sam +regularizer.wrap.optimizer=1", "choose optimizer=..."),
        ("regularizer=sam_agr +regularizer.wrap.rhoo=1", "regularizer.wrap.rho?"),
    ],
)
def test_mistakes_end_in_one_line(line: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        check(line.split())
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_right_passes() -> None:
    check(["regularizer=none,sam,sam_agr", "trainer.precision=bf16-mixed", "optimizer=sgd,adam"])
    check(["regularizer=sam", "regularizer.wrap.rho=0.5", "regularizer.wrap.adaptive=true", "+regularizer.wrap.eps=0"])
