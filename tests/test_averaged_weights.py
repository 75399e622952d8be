"""The moving average of a classifier's weights: its figures, BatchNorm's statistics, resume, processes."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from equality import assert_equal_rows, rows
from lightning.pytorch import Callback
from pool import Pool
from runs import stop_after, tiny_run, weights
from test_processes import EXACT, NORMS, STRATEGIES, batchnorm_run
from test_task import data, fit, task
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils._python_dispatch import TorchDispatchMode

from gvr_lightning.checkpoint import EMA, load_network
from gvr_lightning.data.digits import Digits
from gvr_lightning.distributed.batch import balanced_shard, rank_and_size
from gvr_lightning.distributed.sync_batchnorm import synchronise
from gvr_lightning.errors import Interrupted
from gvr_lightning.models.resnet import resnet
from gvr_lightning.optim.ema import MovingAverage, estimate_statistics, moving_norms
from gvr_lightning.tasks.groups import ParameterGroups

RUN = [*NORMS, "task.ema_decay=0.6", "epochs=3", "lr=0.05", "trainer.log_every_n_steps=1"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2)
    ).double()


def images(n: int = 4, rows: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, 1, 8, 8, dtype=torch.float64, generator=generator) * (i + 1) for i in range(n)]


def close(one: nn.Module, other: nn.Module, tolerance: float = 1e-12) -> None:
    for (name, ours), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=name)


def test_statistics_are_those_of_torch_s_update_bn() -> None:
    ours, theirs = network(), network()
    estimate_statistics(ours, moving_norms(ours), images())
    update_bn(images(), theirs)
    close(ours, theirs)
    assert [m.momentum for m in ours if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1] and not ours.training
    estimate_statistics(ours, moving_norms(ours), [])
    close(ours, theirs)
    assert moving_norms(ours, [ours[1]]) == ["4"]


def statistics_here(synchronised: bool) -> dict[str, Tensor]:
    rank, processes = rank_and_size()
    ours = synchronise(network()) if synchronised else network()
    part = balanced_shard(6, rank, processes)
    estimate_statistics(ours, moving_norms(ours), [x[part.start : part.stop] for x in images()])
    return ours.state_dict()


def test_statistics_of_several_processes(two: Pool) -> None:
    whole, halves = network(), [network(), network()]
    update_bn(images(), whole)
    for found in two(statistics_here, True):
        for name, value in found.items():
            torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-12, atol=1e-12)
    for i, half in enumerate(halves):
        update_bn([x[3 * i : 3 * i + 3] for x in images()], half)
    first, second = (half.state_dict() for half in halves)
    for found in two(statistics_here, False):  # without trainer.sync_batchnorm: the mean of each process's own
        for name, value in found.items():
            expected = (first[name].double() + second[name]) / 2
            torch.testing.assert_close(value.double(), expected, rtol=1e-12, atol=1e-12)


class Reads(TorchDispatchMode):
    """Counts how often a value is read off its device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "local_scalar" in str(func)
        return func(*args, **(kwargs or {}))


def test_an_update_of_the_average_reads_nothing_off_the_device() -> None:
    average = MovingAverage(network(), 0.9, True)
    average.update_parameters(network())
    with Reads() as reads:
        average.update_parameters(network())
    assert reads.count == 0 and int(average.n_averaged) == 2
    average.load_state_dict(average.state_dict())
    with Reads() as reads:
        average.update_parameters(network())
    assert reads.count == 1


class Followed(Callback):
    """The average by hand, update by update."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self.updates = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        decay = min(0.6, (1 + self.updates) / (10 + self.updates)) if self.updates else 0.0
        for name, p in pl_module.model.named_parameters():
            self.average[name] = decay * self.average.get(name, torch.zeros_like(p)) + (1 - decay) * p.detach()
        self.updates += 1


def test_the_average_is_that_by_hand_and_has_statistics_of_its_own_without_validation_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours, source, by_hand = task(resnet((1, 8, 8), 4, [4, 4], 1), ema_decay=0.6), data(), Followed()
    fit(ours, source, tmp_path, callbacks=[by_hand])
    assert ours.ema is not None and by_hand.updates == 6
    averaged = copy.deepcopy(ours.model)
    with torch.no_grad():
        for name, p in averaged.named_parameters():
            p.copy_(by_hand.average[name])
    source.trainer = SimpleNamespace(lightning_module=SimpleNamespace(device=torch.device("cpu")))  # type: ignore[assignment]
    batches = list(source.as_they_are(99))
    assert [len(b) for b in batches] == [16, 16, 16] and len(list(source.as_they_are(2))) == 2
    seen, every = torch.cat(batches), source.batches.as_it_is(source.train_index, source._splits.train).views[0]
    torch.testing.assert_close(seen.sum(0), every.sum(0), rtol=1e-5, atol=1e-4)  # each image once, not augmented
    update_bn(batches, averaged)
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(ours.ema.module.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_the_statistics_of_a_frozen_part_stay_in_the_average(tmp_path: Path) -> None:
    torch.manual_seed(0)
    groups = ParameterGroups("backbone.early")
    ours = task(resnet((1, 8, 8), 4, [4, 4], 1), ema_decay=0.6, groups=groups)
    before = copy.deepcopy(ours.model.backbone.early.state_dict())
    fit(ours, data(), tmp_path, max_epochs=1)
    assert ours.ema is not None
    after = ours.ema.module.backbone.early.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not torch.equal(ours.ema.module.backbone.last_stage.state_dict()[name := next(
        n for n in ours.ema.module.backbone.last_stage.state_dict() if n.endswith("running_mean"))],
        ours.model.backbone.last_stage.state_dict()[name])  # fmt: skip


def test_the_test_is_of_the_average_and_of_the_weights_beside_it(finished: Callable[..., Path]) -> None:
    folder = finished(*RUN)
    test = Digits()().test
    found = {name: float(value) for name, value in rows(folder)[-1].items() if value}
    for kind, prefix in (("ema", "test/"), ("raw", "test/raw_")):
        loaded = load_network(folder / "checkpoints" / "last.ckpt", kind)
        with torch.no_grad():
            logits = loaded.network((test.images / 255 - loaded.mean.view(1, -1, 1, 1)) / loaded.std.view(1, -1, 1, 1))
        assert found[f"{prefix}loss"] == pytest.approx(float(F.cross_entropy(logits, test.targets)), rel=1e-5)
        assert found[f"{prefix}acc"] == pytest.approx(float((logits.argmax(1) == test.targets).double().mean()))
    assert not math.isclose(found["test/loss"], found["test/raw_loss"], rel_tol=1e-3)


def test_a_run_that_was_stopped_goes_on_to_the_same_average(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 5, 15)
        with pytest.raises(Interrupted):
            tiny_run(tmp_path, *RUN, cnn=False)
    tiny_run(tmp_path, *RUN, f"resume={tmp_path}", cnn=False)
    theirs = weights(finished(*RUN))
    assert any(name.startswith(EMA) for name in theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(tmp_path).items())
    assert_equal_rows(finished(*RUN), tmp_path, rounding=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_compute_the_average_of_one(
    two: Pool, finished: Callable[..., Path], tmp_path: Path, strategy: str
) -> None:
    overrides = [*EXACT, *NORMS, "task.ema_decay=0.6", "trainer.sync_batchnorm=true"]
    two(batchnorm_run, tmp_path, [*overrides, *STRATEGIES[strategy], "trainer.devices=2"])
    assert_equal_rows(finished(*overrides), tmp_path, rounding=1e-10)
    one, many = weights(finished(*overrides)), weights(tmp_path)
    assert all(torch.allclose(one[name], many[name], rtol=1e-9, atol=1e-11) for name in one if name.startswith("ema."))


def test_without_it_nothing_of_it_is_there(finished: Callable[..., Path]) -> None:
    folder = finished("epochs=2")
    assert not any(name.startswith("ema.") for name in weights(folder))
    assert not any("raw_" in name for row in rows(folder) for name in row)
