"""ACProp and timm's Adan in lock-step with scalar references; every optimizer with AGR; what a run needs of them."""

import copy
import inspect
import io
import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from timm.optim import Adan
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.optim import Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from gvr_lightning.methods.agr import AGR, agr_
from gvr_lightning.optim import acprop, schedules
from gvr_lightning.optim.acprop import ACProp

STEPS = 20
SHAPES = [(3, 2, 2, 2), (5,), (1,), (), (0, 3)]

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "acprop": partial(ACProp, lr=0.01, weight_decay=0.1),
    "acprop_coupled": partial(ACProp, lr=0.01, weight_decay=0.1, decoupled=False),
    "acprop_foreach": partial(ACProp, lr=0.01, weight_decay=0.1, decoupled=False, foreach=True),
    "rmsprop": partial(RMSprop, lr=0.01, momentum=0.5),
    "adam": partial(Adam, lr=0.01),
    "adamw": partial(AdamW, lr=0.01, weight_decay=0.1),
    "adan": partial(Adan, lr=0.01, weight_decay=0.1),
}
OURS_AND_TIMMS = ["acprop", "acprop_coupled", "acprop_foreach", "adan"]

# One scalar's gradient at p in step t, from 1 on; and its positions and branches after each step.
Gradient = Callable[[float, int], float]
Path_ = Iterator[tuple[float, str]]


def acprop_by_hand(
    p: float,
    gradient: Gradient,
    lrs: list[float],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-16,
    weight_decay: float = 0.0,
    decoupled: bool = True,
    rectify: bool = True,
    degenerate_to_sgd: bool = True,
    momentum_update: bool = False,
) -> Path_:
    """ACProp of a scalar, step by step as its authors' code goes."""
    b1, b2 = betas
    mean = var = 0.0
    for t, lr in enumerate(lrs, start=1):
        g = gradient(p, t)
        if decoupled:
            p *= 1 - lr * weight_decay
        else:
            g += weight_decay * p
        correction1 = 1 - b1**t
        mean = b1 * mean + (1 - b1) * g
        along = mean if momentum_update else g * correction1
        n_max = 2 / (1 - b2) - 1
        n = n_max - 2 * t * b2**t / (1 - b2**t)
        if t > 1:
            var += eps
        if t == 1:
            p, branch = p - lr * mean / correction1, "first"
        elif not rectify:
            denominator = math.sqrt(var) / math.sqrt(1 - b2 ** (t - 1)) + eps
            p, branch = p - lr / correction1 * along / denominator, "plain"
        elif n >= 5:
            r = math.sqrt((1 - b2**t) * (n - 4) / (n_max - 4) * (n - 2) / n * n_max / (n_max - 2))
            p, branch = p - lr * r / correction1 * along / (math.sqrt(var) + eps), "rectified"
        elif degenerate_to_sgd:
            p, branch = p - lr * mean / correction1, "descent"
        else:
            branch = "nothing"
        var = b2 * var + (1 - b2) * (g - mean) ** 2
        yield p, branch


def adan_by_hand(
    p: float,
    gradient: Gradient,
    lrs: list[float],
    *,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    no_prox: bool = False,
) -> Path_:
    """Adan of a scalar (Xie et al. 2022, arXiv 2208.06677), with its authors' code's bias corrections."""
    b1, b2, b3 = betas
    m = v = n = 0.0
    before = None
    for t, lr in enumerate(lrs, start=1):
        g = gradient(p, t)
        change = 0.0 if before is None else g - before
        before = g
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * change
        n = b3 * n + (1 - b3) * (g + b2 * change) ** 2
        denominator = math.sqrt(n) / math.sqrt(1 - b3**t) + eps
        update = lr * (m / (1 - b1**t) + b2 * v / (1 - b2**t)) / denominator
        p = p * (1 - lr * weight_decay) - update if no_prox else (p - update) / (1 + lr * weight_decay)
        yield p, "prox"


class Problem:
    """Parameters of several shapes, each entry with its own noisy parabola."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.params = [nn.Parameter(torch.randn(shape, dtype=torch.float64).to(dtype)) for shape in SHAPES]
        self.params[0].data = self.params[0].data.contiguous(memory_format=torch.channels_last)
        self.params[1].data = torch.stack([self.params[1].data] * 2, 1)[:, 0]  # every other entry of a larger tensor
        self.curvature = [torch.rand(p.shape, dtype=torch.float64) + 0.5 for p in self.params]
        self.noise = [torch.randn(STEPS, *p.shape, dtype=torch.float64) for p in self.params]

    def backward(self, step: int) -> Tensor:
        """The gradients of step 0, 1, ... and the loss."""
        for p in self.params:
            p.grad = None
        parts = zip(self.params, self.curvature, self.noise, strict=True)
        loss = sum((c * p.double().square() / 2 + z[step] * p.double()).sum() for p, c, z in parts)
        loss.backward()
        return loss

    def scalars(self) -> list[tuple[float, Gradient]]:
        """Where every entry begins, and its gradient in Python floats."""
        found: list[tuple[float, Gradient]] = []
        for p, c, z in zip(self.params, self.curvature, self.noise, strict=True):
            entries = zip(
                p.flatten().tolist(), c.flatten().tolist(), z.reshape(STEPS, p.numel()).t().tolist(), strict=True
            )
            found += [(x, lambda q, t, k=k, noise=noise: k * q + noise[t - 1]) for x, k, noise in entries]
        return found

    def train(self, optimizer: Optimizer, steps: range = range(STEPS)) -> None:
        for step in steps:
            self.backward(step)
            optimizer.step()


def identical(a: Problem, b: Problem) -> None:
    for p, q in zip(a.params, b.params, strict=True):
        assert torch.equal(p, q)


def moved(a: Problem) -> bool:
    return all(
        not torch.equal(p, q) for p, q in zip(a.params, Problem(a.params[0].dtype).params, strict=True) if p.numel()
    )


# --- the formulas ----------------------------------------------------------------------------------------------------


def lock_step(make: Callable[..., Optimizer], by_hand: Callable[..., Path_], **options: object) -> set[str]:
    """Twenty steps with a falling learning rate, compared after each; returns the reference's branches."""
    problem = Problem()
    lrs = [0.05 * (1 - t / (2 * STEPS)) for t in range(STEPS)]
    paths = [list(by_hand(x, gradient, lrs, **options)) for x, gradient in problem.scalars()]
    optimizer = make(problem.params, lr=0.05, **options)
    schedule = LambdaLR(optimizer, lambda t: 1 - t / (2 * STEPS))
    for step in range(STEPS):
        problem.backward(step)
        optimizer.step()
        schedule.step()
        found = torch.cat([p.detach().flatten() for p in problem.params])
        expected = torch.tensor([path[step][0] for path in paths], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    return {branch for path in paths for _, branch in path}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("momentum_update", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("rectify", [True, False])
def test_acprop_in_lock_step(
    rectify: bool, decoupled: bool, weight_decay: float, momentum_update: bool, foreach: bool
) -> None:
    options = {"rectify": rectify, "decoupled": decoupled, "weight_decay": weight_decay}
    branches = lock_step(partial(ACProp, foreach=foreach), acprop_by_hand, momentum_update=momentum_update, **options)
    assert branches == ({"first", "descent", "rectified"} if rectify else {"first", "plain"})


@pytest.mark.parametrize(
    ("options", "branches"),
    [
        ({}, {"first", "descent", "rectified"}),
        ({"degenerate_to_sgd": False}, {"first", "nothing", "rectified"}),
        ({"betas": (0.5, 0.8), "eps": 1e-3}, {"first", "descent", "rectified"}),
        ({"betas": (0.5, 0.8), "eps": 1e-3, "rectify": False}, {"first", "plain"}),
        ({"betas": (0.9, 0.5)}, {"first", "descent"}),  # never more than two gradients' worth
        ({"betas": (0.9, 0.0), "eps": 1e-2, "rectify": False}, {"first", "plain"}),
        ({"betas": (0.0, 0.999), "eps": 1e-4, "rectify": False}, {"first", "plain"}),  # no variance but eps
    ],
)
def test_acprops_other_settings_in_lock_step(options: dict, branches: set[str]) -> None:
    for foreach in (False, True):
        assert lock_step(partial(ACProp, foreach=foreach), acprop_by_hand, **options) == branches


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("no_prox", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_timms_adan_in_lock_step(weight_decay: float, no_prox: bool, foreach: bool | None) -> None:
    lock_step(partial(Adan, foreach=foreach), adan_by_hand, weight_decay=weight_decay, no_prox=no_prox)


@pytest.mark.parametrize("name", ["acprop", "adan"])
def test_the_groups_hold_the_usual_values(name: str) -> None:
    written = yaml.safe_load((Path(__file__).parents[1] / "conf" / "optimizer" / f"{name}.yaml").read_text())
    values = {key: value for key, value in written["optimizer"].items() if key[0] != "_"}
    usual = inspect.signature({"acprop": ACProp, "adan": Adan}[name]).parameters
    as_lists = {key: list(p.default) if isinstance(p.default, tuple) else p.default for key, p in usual.items()}
    assert values | {"lr": written["lr"]} == {key: as_lists[key] for key in values}


# --- foreach ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ACProp, Adan])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # torch's own two ways differ in bfloat16 on a CPU
def test_foreach_equals_one_by_one_bit_for_bit(make: Callable[..., Optimizer], dtype: torch.dtype) -> None:
    switches = [{"decoupled": d, "rectify": r, "momentum_update": m} for d, r, m in itertools.product([0, 1], repeat=3)]
    for options in switches if make is ACProp else [{"no_prox": False}, {"no_prox": True}]:
        problems = Problem(dtype), Problem(dtype)
        one_by_one, together = (
            make(problem.params, lr=0.01, weight_decay=0.1, foreach=foreach, **options)
            for problem, foreach in zip(problems, (False, True), strict=True)
        )
        problems[0].train(one_by_one)
        problems[1].train(together)
        identical(*problems)
        assert moved(problems[0])
        for p, q in zip(problems[0].params, problems[1].params, strict=True):
            a, b = one_by_one.state[p], together.state[q]
            assert a.keys() == b.keys()
            assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_foreach_takes_several_dtypes_at_once() -> None:
    problems = [Problem(dtype) for dtype in (torch.float64, torch.float32)]
    alone = [Problem(dtype) for dtype in (torch.float64, torch.float32)]
    together = ACProp([p for problem in problems for p in problem.params], lr=0.01, foreach=True)
    each = [ACProp(problem.params, lr=0.01, foreach=False) for problem in alone]
    for step in range(STEPS):
        for problem in (*problems, *alone):
            problem.backward(step)
        for optimizer in (together, *each):
            optimizer.step()
    for a, b in zip(problems, alone, strict=True):
        identical(a, b)


def test_foreach_is_for_gpus_which_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake GPU tensor has no values: reading one raises."""
    used: list[str] = []
    for name in ("_foreach", "_single_tensor"):
        function = getattr(acprop, name)
        monkeypatch.setattr(acprop, name, lambda *a, f=function, n=name: (used.append(n), f(*a)))
    problem = Problem()
    problem.train(ACProp(problem.params), range(2))
    assert used == ["_single_tensor"] * 2
    with FakeTensorMode():
        params = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in SHAPES]
        optimizer = ACProp(params)
        for _ in range(8):
            for p in params:
                p.grad = torch.empty_like(p)
            optimizer.step()
    assert used[2:] == ["_foreach"] * 8


# --- AGR -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_agr_equals_regularizing_by_hand(name: str, with_closure: bool) -> None:
    problem, reference, plain = Problem(), Problem(), Problem()
    wrapped, unwrapped = AGR(OPTIMIZERS[name](problem.params)), OPTIMIZERS[name](reference.params)
    for step in range(STEPS):
        reference.backward(step)
        agr_([p.grad for p in reference.params])
        unwrapped.step()
        if with_closure:
            wrapped.step(closure=lambda step=step: problem.backward(step))
        else:
            problem.backward(step)
            wrapped.step()
        identical(problem, reference)
    plain.train(OPTIMIZERS[name](plain.params))
    assert not torch.allclose(plain.params[0], problem.params[0], rtol=1e-3)
    assert torch.equal(plain.params[2], problem.params[2])  # a single element is not regularized


# --- what a run needs ------------------------------------------------------------------------------------------------


def reloaded(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrap", [AGR, lambda optimizer: optimizer], ids=["agr", "plain"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_in_the_middle_changes_no_bit(name: str, wrap: Callable, dtype: torch.dtype) -> None:
    through, resumed = Problem(dtype), Problem(dtype)
    for first in (1, 4, 9):  # with ACProp: before, while and after it descends without a variance
        through = Problem(dtype)
        optimizer = wrap(OPTIMIZERS[name](through.params))
        through.train(optimizer, range(first))
        saved = reloaded({"params": [p.detach() for p in through.params], "optimizer": optimizer.state_dict()})
        through.train(optimizer, range(first, STEPS))

        resumed = Problem(dtype)
        for p, value in zip(resumed.params, saved["params"], strict=True):
            p.data.copy_(value)
        optimizer = wrap(OPTIMIZERS[name](resumed.params, lr=9.0))
        optimizer.load_state_dict(saved["optimizer"])
        resumed.train(optimizer, range(first, STEPS))
        identical(through, resumed)


def test_acprops_state_is_a_count_and_two_tensors() -> None:
    problem = Problem()
    optimizer = ACProp(problem.params, lr=0.01)
    problem.train(optimizer, range(3))
    state = optimizer.state_dict()["state"]
    assert list(state) == list(range(len(SHAPES)))
    for p, entry in zip(problem.params, state.values(), strict=True):
        assert entry.keys() == {"step", "exp_avg", "exp_avg_var"}
        assert type(entry["step"]) is int and entry["step"] == 3
        assert entry["exp_avg"].shape == entry["exp_avg_var"].shape == p.shape


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("wrap", [AGR, lambda optimizer: optimizer], ids=["agr", "plain"])
@pytest.mark.parametrize("name", OURS_AND_TIMMS)
def test_deepcopy_and_pickle_go_on_alike(name: str, wrap: Callable, copy_of: Callable) -> None:
    problem = Problem()
    optimizer = wrap(OPTIMIZERS[name](problem.params))
    problem.train(optimizer, range(7))
    twin, twins_optimizer = copy_of((problem, optimizer))
    problem.train(optimizer, range(7, STEPS))
    twin.train(twins_optimizer, range(7, STEPS))
    identical(problem, twin)


@pytest.mark.parametrize("name", OURS_AND_TIMMS)
def test_a_closure_runs_once_with_gradients_and_its_loss_is_returned(name: str) -> None:
    problem, reference = Problem(), Problem()
    optimizer = OPTIMIZERS[name](problem.params)
    plain = OPTIMIZERS[name](reference.params)
    calls = []
    for step in range(STEPS):
        loss = reference.backward(step)
        plain.step()
        with torch.no_grad():
            result = optimizer.step(closure=lambda step=step: (calls.append(step), problem.backward(step))[1])
        assert torch.equal(result, loss)
    assert calls == list(range(STEPS))
    identical(problem, reference)
    assert optimizer.step() is None


@pytest.mark.parametrize("name", OURS_AND_TIMMS)
def test_gradients_stay_as_they_are(name: str) -> None:
    problem = Problem()
    optimizer = OPTIMIZERS[name](problem.params)
    for step in range(STEPS):
        problem.backward(step)
        before = [(p.grad, p.grad.clone()) for p in problem.params]
        optimizer.step()
        for p, (grad, values) in zip(problem.params, before, strict=True):
            assert p.grad is grad
            assert torch.equal(grad, values)


@pytest.mark.parametrize("foreach", [False, True])
def test_a_parameter_counts_the_steps_it_had_gradients_for(foreach: bool) -> None:
    """Also one that is added later, and one that has none for a while."""
    make = partial(ACProp, lr=0.01, foreach=foreach)
    problem, alone = Problem(), Problem()
    first, late, added, *_ = problem.params
    optimizer = make([first, late])
    having = {first: range(STEPS), late: [3, 4, 7, 8, 9, 15, 16, 17, 18], added: range(12, STEPS)}
    for step in range(STEPS):
        if step == 10:
            optimizer.add_param_group({"params": [added], "lr": 0.02})
        problem.backward(step)
        for p, steps in having.items():
            p.grad = p.grad if step in steps else None
        optimizer.step()
    for p, q, lr in zip(having, alone.params, (0.01, 0.01, 0.02), strict=False):
        own = make([q], lr=lr)
        for step in having[p]:
            alone.backward(step)
            own.step()
        assert torch.equal(p, q)
        assert optimizer.state[p]["step"] == len(having[p])


@pytest.mark.parametrize("name", OURS_AND_TIMMS)
def test_grad_scaler_skips_a_step_that_overflows(name: str) -> None:
    problem, reference = Problem(torch.float32), Problem(torch.float32)
    optimizer, plain = OPTIMIZERS[name](problem.params), OPTIMIZERS[name](reference.params)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(STEPS):
        problem.backward(step)
        for p in problem.params:
            p.grad *= scaler.scale(torch.ones(())).item()
        if step == 8:
            problem.params[0].grad[1, 0, 1, 0] = math.inf
        else:
            reference.backward(step)
            plain.step()
        scaler.step(optimizer)
        scaler.update()
        identical(problem, reference)
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("name", OURS_AND_TIMMS)
def test_the_schedules_drive_them(name: str) -> None:
    problem = Problem()
    optimizer = AGR(OPTIMIZERS[name](problem.params))
    scheduler = schedules.warmup(optimizer, STEPS, 1, warmup_steps=4, cosine=True).scheduler
    reference = Problem()
    plain = AGR(OPTIMIZERS[name](reference.params))
    for step in range(STEPS):
        plain.param_groups[0]["lr"] = 0.01 * schedules.WarmupFactor(4, STEPS)(step)
        reference.train(plain, range(step, step + 1))
        problem.train(optimizer, range(step, step + 1))
        scheduler.step()
    identical(problem, reference)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_follows_in_its_own_dtype(dtype: torch.dtype) -> None:
    problem, exact = Problem(dtype), Problem()
    for p, q in zip(problem.params, exact.params, strict=True):
        q.data.copy_(p.data)
    optimizer = ACProp(problem.params, lr=0.05)
    problem.train(optimizer)
    exact.train(ACProp(exact.params, lr=0.05))
    for p, q in zip(problem.params, exact.params, strict=True):
        assert {optimizer.state[p][key].dtype for key in ("exp_avg", "exp_avg_var")} == {dtype}
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(p.double(), q, rtol=tolerance, atol=tolerance)


def test_state_keeps_the_memory_format() -> None:
    p = nn.Parameter(torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
    optimizer = ACProp([p])
    p.grad = torch.randn(2, 3, 4, 5)
    optimizer.step()
    assert p.stride() == optimizer.state[p]["exp_avg"].stride() == optimizer.state[p]["exp_avg_var"].stride()


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"eps": -1e-9},
        {"weight_decay": -0.1},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"betas": (0.9,)},
        {"betas": (0.9, 0.9, 0.9)},
    ],
)
def test_numbers_out_of_range(wrong: dict) -> None:
    with pytest.raises(ValueError, match=rf"^ACProp: {next(iter(wrong))}=.* must be [^\n]*$"):
        ACProp([nn.Parameter(torch.ones(2))], **wrong)
    ACProp([nn.Parameter(torch.ones(2))], lr=0.0, betas=[0, 0], eps=0, weight_decay=0)


def test_only_dense_real_gradients() -> None:
    table, rotation = nn.Embedding(6, 2, sparse=True), nn.Parameter(torch.ones(2, dtype=torch.complex64))
    table(torch.tensor([1, 4])).sum().backward()
    rotation.abs().sum().backward()
    for p in (table.weight, rotation):
        optimizer = ACProp([p])
        with pytest.raises(RuntimeError, match=r"^ACProp takes dense real gradients only$"):
            optimizer.step()
        assert not optimizer.state
