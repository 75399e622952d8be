"""The callback for LightningModules of one's own, against loops that are written by hand, in float64."""

import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from pool import Pool
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from gvr_lightning import AGR, SAM, GradientRegularization
from gvr_lightning.distributed.batch import rank_and_size

OFF: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
LR, CLIP = 0.5, 0.3


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


class Module(LightningModule):
    """A user's: two views, the sum of their losses, automatic optimization."""

    def __init__(self, wrap: Any = lambda optimizer: optimizer) -> None:
        super().__init__()
        self.model, self.wrap = network(), wrap

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        one, other, y = batch
        return F.cross_entropy(self.model(one), y) + F.cross_entropy(self.model(other), y)

    def configure_optimizers(self) -> Any:
        optimizer = self.wrap(torch.optim.SGD(self.parameters(), lr=LR, momentum=0.9))
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Averaged(Module):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        one, other, y = batch
        return F.cross_entropy(self.model(torch.cat([one, other])), y.repeat(2))


class Manual(Module):
    """Two optimizers, of which each has an update a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=LR) for layer in (self.model[0], self.model[2])]


def batches(rows: int = 40) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    views = [torch.randn(rows, 5, dtype=torch.float64, generator=generator) for _ in range(2)]
    return TensorDataset(*views, torch.randint(3, (rows,), generator=generator))


def fit(module: LightningModule, callback: GradientRegularization | None, **options: Any) -> Trainer:
    options = {"max_epochs": 1, "use_distributed_sampler": False, "accelerator": "cpu", "devices": 1, **OFF, **options}
    trainer = Trainer(callbacks=callback, **options)
    processes = rank_and_size()[1]
    sampler = DistributedSampler(batches(), shuffle=False) if processes > 1 else None  # Lightning's own shuffles
    trainer.fit(module, DataLoader(batches(), batch_size=8 // processes, sampler=sampler))
    return trainer


def by_hand(alpha: float, agr: bool, accumulate: int, clip: float | None, row: bool = False) -> tuple[Any, list[float]]:
    """The same: backward of each part, clip, AGR, update, schedule. The penalty is that of the definition."""
    model, data, penalties = network(), batches(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    parts = [data[i : i + 8] for i in range(0, len(data), 8)]
    for first in range(0, len(parts), accumulate):
        optimizer.zero_grad()
        for one, other, y in parts[first : first + accumulate]:
            losses = [F.cross_entropy(model(x), y) for x in (one, other)]
            of_views = [torch.autograd.grad(loss, [*model[2].parameters()], create_graph=True) for loss in losses]
            penalty = sum((a - b).square().sum() for a, b in zip(*of_views, strict=True))
            penalties.append(penalty.item())  # type: ignore[union-attr]
            ((sum(losses) + alpha * penalty) / accumulate).backward()  # type: ignore[union-attr]
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for p in (p for p in model.parameters() if agr and p.ndim > row):  # a bias' rows have one entry, and stay
            p.grad *= 1 - p.grad.abs() / p.grad.abs().sum(tuple(range(row, p.ndim)), keepdim=True)  # type: ignore[operator,union-attr]
        optimizer.step()
        schedule.step()
    return model, penalties


def assert_equal(one: Iterable[Tensor], other: Iterable[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


class Scaled(MixedPrecision):
    """A gradient scaler without half precision, so that nothing is rounded."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))

    def autocast_context_manager(self) -> Any:
        return nullcontext()


CASES: dict[str, tuple[dict[str, Any], int, float | None, dict[str, Any]]] = {
    "AGR": ({"agr": True}, 1, None, {}),
    "AGR, accumulated and clipped": ({"agr": True}, 2, CLIP, {}),
    "AGR by row": ({"agr": True, "granularity": "row"}, 1, CLIP, {}),
    "AGR, unscaled": ({"agr": True}, 2, CLIP, {"plugins": "scaled"}),
    "GVR": ({"alpha": 3.0}, 1, None, {}),
    "GVR, accumulated and clipped": ({"alpha": 3.0, "head": "model.2"}, 3, CLIP, {}),
    "both, scaled": ({"alpha": 3.0, "agr": True}, 3, CLIP, {"plugins": "scaled"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_module_of_one_s_own_is_trained_as_by_hand(case: str) -> None:
    settings, accumulate, clip, options = CASES[case]
    plugins = [Scaled()] if options else None
    callback, module = GradientRegularization(**settings), Module()
    fit(module, callback, accumulate_grad_batches=accumulate, gradient_clip_val=clip, plugins=plugins)
    alpha, agr = settings.get("alpha", 0.0), settings.get("agr", False)
    expected, _ = by_hand(alpha, agr, accumulate, clip, settings.get("granularity") == "row")
    assert_equal(module.parameters(), expected.parameters())
    plain, _ = by_hand(0.0, False, accumulate, clip)
    assert (module.model[2].weight - plain[2].weight).abs().max() > 1e-3


def test_the_penalty_is_logged_and_nothing_is_left_behind() -> None:
    callback, module = GradientRegularization(alpha=3.0, agr=True), Module()
    trainer = fit(module, callback, accumulate_grad_batches=3, log_every_n_steps=1)
    _, penalties = by_hand(3.0, True, 3, None)
    assert float(trainer.callback_metrics["gradient_variance"]) == pytest.approx(penalties[-1], rel=1e-6)
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
    assert not any(layer._forward_hooks for layer in module.modules())
    callback.on_fit_start(trainer, module)
    assert trainer.optimizers[0]._optimizer_step_pre_hooks and module.model[2]._forward_hooks
    callback.on_exception(trainer, module, KeyboardInterrupt())
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks and not module.model[2]._forward_hooks


def test_every_optimizer_of_manual_optimization_has_agr_once() -> None:
    module, model, data = Manual(), network(), batches()
    fit(module, GradientRegularization(agr=True))
    for i in range(0, len(data), 8):
        one, other, y = data[i : i + 8]
        for layer in (model[0], model[2]):
            model.zero_grad()
            (F.cross_entropy(model(one), y) + F.cross_entropy(model(other), y)).backward()
            with torch.no_grad():
                for p in layer.parameters():
                    p -= LR * p.grad * (1 - p.grad.abs() / p.grad.abs().sum())
    assert_equal(module.parameters(), model.parameters())


def test_sam_climbs_along_the_gradients_and_agr_changes_those_of_the_update() -> None:
    by_callback, by_wrapper = Module(SAM), Module(lambda optimizer: SAM(AGR(optimizer)))
    fit(by_callback, GradientRegularization(agr=True))
    fit(by_wrapper, None)
    assert_equal(by_callback.parameters(), by_wrapper.parameters())


def on_two(settings: dict[str, Any]) -> list[Tensor]:
    """The weights after a training in one of the pool's processes; each has half of every batch."""
    warnings.simplefilter("ignore")
    module = Module()
    options = {"strategy": DDPStrategy(), "plugins": [LightningEnvironment()], "devices": 2}
    fit(module, GradientRegularization(**settings), **options, accumulate_grad_batches=2, gradient_clip_val=CLIP)
    return [p.detach() for p in module.model.parameters()]


def test_two_processes_train_as_one(two: Pool) -> None:
    settings = {"alpha": 3.0, "agr": True}
    expected, _ = by_hand(3.0, True, 2, CLIP)
    for weights in two(on_two, settings):
        assert_equal(weights, expected.parameters())


REFUSED: dict[str, tuple[dict[str, Any], Any, str]] = {
    "nothing to do": ({}, Module, "nothing to do"),
    "alpha": ({"alpha": -1.0}, Module, "alpha must be a finite number"),
    "granularity": ({"agr": True, "granularity": "column"}, Module, "granularity must be tensor or row"),
    "one pass": ({"alpha": 1.0}, Averaged, r"ran 1 time\(s\) in training_step"),
    "another layer": ({"alpha": 1.0, "head": "model.1"}, Module, "Tanh is no linear last layer"),
    "no layer": ({"alpha": 1.0, "head": "fc"}, Module, "has no such layer"),
    "manual": ({"alpha": 1.0}, Manual, "takes automatic optimization"),
    "AGR already": ({"agr": True}, lambda: Module(AGR), "has AGR already"),
    "AGR within": ({"agr": True}, lambda: Module(lambda o: SAM(AGR(o))), "has AGR already"),
    "a strategy": ({"agr": True}, Module, "one device or DDP, not Shards"),
}


class Shards(SingleDeviceStrategy):
    """Stands for a strategy that divides gradients, which would take a GPU."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_be_exact_with_is_one_line(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, make, message = REFUSED[case]
    options = {}
    if case == "a strategy":
        monkeypatch.setattr("gvr_lightning.callbacks.gradient_regularization.SingleDeviceStrategy", DDPStrategy)
        options = {"strategy": Shards(torch.device("cpu")), "accelerator": "auto", "devices": "auto"}
    with pytest.raises(ValueError, match=message) as raised:
        fit(make(), GradientRegularization(**settings), **options)
    assert "\n" not in str(raised.value)
