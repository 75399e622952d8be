"""What happens round the training, by value: time, images, checkpoints, signals, lines, rows and the summary."""

import contextlib
import csv
import io
import json
import logging
import os
import platform
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.call import _call_callback_hooks
from omegaconf import OmegaConf
from runs import stop_after, tiny_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_sam import by_hand
from test_task import data, fit, plain_loop, task
from torch import Tensor, nn

from gvr_lightning import AGR
from gvr_lightning.callbacks.agr_statistics import AGRStatistics
from gvr_lightning.callbacks.checkpoint_files import AtomicCheckpointIO, newest_checkpoint
from gvr_lightning.callbacks.checkpoints import Checkpoints
from gvr_lightning.callbacks.idle import OF_A_STEP, pass_over
from gvr_lightning.callbacks.interruption import Interruption
from gvr_lightning.callbacks.progress import RunProgress
from gvr_lightning.callbacks.throughput import Throughput
from gvr_lightning.checkpoint import load_checkpoint
from gvr_lightning.config.identity import config_hash
from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.data.label_noise import Symmetric
from gvr_lightning.errors import STOPPING, Interrupted, UserError
from gvr_lightning.files import atomic
from gvr_lightning.methods.penalty import NoPenalty
from gvr_lightning.methods.sam import SAM, sam_agr
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.split import Pool, SplitNetwork
from gvr_lightning.recording import summary
from gvr_lightning.recording.csv import CsvLogger, read_metrics, tensorboard, written
from gvr_lightning.recording.csv import csv as csv_loggers
from gvr_lightning.recording.overview import print_overview


class Clock:
    """Moves where it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def silent_lightning(caplog: pytest.LogCaptureFixture) -> None:
    """It has words of its own for standard error, which a run does without."""
    caplog.set_level(logging.WARNING, "lightning.pytorch")


CLOCK = Clock()
TRAIN_PASS, EVAL_PASS, SAVING, MAKING = 1.0, 100.0, 7.0, 0.25  # seconds that each takes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The only one, which saving a file moves as well."""
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, CLOCK)
    save = torch.save

    def slow(*arguments: Any) -> None:
        CLOCK.now += SAVING
        save(*arguments)

    monkeypatch.setattr(torch, "save", slow)
    return CLOCK


class _Ticks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        CLOCK.now += TRAIN_PASS if self.training else EVAL_PASS
        return x


def ticking(image_shape: tuple[int, int, int], num_classes: int) -> SplitNetwork:
    """A network whose passes take their time."""
    convolution = nn.Conv2d(image_shape[0], 4, 3, padding=1)
    return SplitNetwork(nn.Sequential(_Ticks(), convolution), Pool(), nn.Linear(4, num_classes))


TICKING = ["model._target_=test_callbacks.ticking", "~model.width", "~model.groups", "scheduler=constant"]


# --- time and images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every_n_steps", ["null", "1"])
def test_seconds_are_those_of_training_and_images_are_samples_times_views(
    tmp_path: Path, clock: Clock, every_n_steps: str
) -> None:
    """3 updates of 2 passes an epoch; neither validation nor a checkpoint, at its end or within, is counted."""
    told = tiny_run(tmp_path, *TICKING, "regularizer=two_view", f"checkpoint.every_n_steps={every_n_steps}")
    assert told["train"] == {
        "epochs": 2,
        "steps": 6,
        "seconds": 12.0,
        "images_per_second": round(320 / 12, 1),
        "images": 320,
        "samples": 160,
        "gradient_evaluations": 320,
    }
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "train/seconds" in row]
    assert [(float(row["train/seconds"]), int(row["train/images"])) for row in rows] == [(6.0, 160), (12.0, 320)]


def test_without_a_validation_part_seconds_are_the_same(tmp_path: Path, clock: Clock) -> None:
    told = tiny_run(tmp_path, *TICKING, "data.val_fraction=0.0", "epochs=3")
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "lr" in row]
    assert [float(row["train/seconds"]) for row in rows] == [3.0, 6.0, 9.0]
    assert told["train"]["seconds"] == 9.0 and told["train"]["images"] == told["train"]["samples"] == 240


def test_seconds_go_on_after_a_resume(tmp_path: Path, clock: Clock) -> None:
    tiny_run(tmp_path, *TICKING, "epochs=1")
    clock.now += 1e6
    told = tiny_run(tmp_path, *TICKING, "epochs=3", f"resume={tmp_path}")
    assert told["train"]["seconds"] == 9.0
    assert told["train"]["samples"] == told["train"]["gradient_evaluations"] == 240


def test_an_image_counts_as_often_as_its_update_takes_the_gradients(tmp_path: Path) -> None:
    told = tiny_run(tmp_path, "regularizer=sam", "regularizer.views=2", "task.accumulate=2")
    assert (told["train"]["images"], told["train"]["gradient_evaluations"]) == (320, 640)
    assert told["data_size"]["train"] == 80 and told["data_size"].keys() == {"train", "val", "test"}


def test_what_a_checkpoint_of_before_did_not_count_is_not_told() -> None:
    throughput = Throughput()
    throughput.load_state_dict({"seconds": 1.0, "samples": 2, "images": 4})
    assert throughput.summary() == {"seconds": 1.0, "images_per_second": 4.0, "images": 4, "samples": 2}
    assert throughput.state_dict()["gradient_evaluations"] is None


class Signals:
    """An augmentation that sends signals while it makes certain batches.

    Args:
        source: whose augmentation it takes the place of.
        at: the batch's number -> signals.
    """

    def __init__(self, source: ViewsDataModule, at: dict[int, list[int]]) -> None:
        self.augmentation, self.at, self.batches = source.augmentation, at, 0
        source.batches.augmentation = self

    def __call__(self, *arguments: Any) -> list[Tensor]:
        self.batches += 1
        CLOCK.now += MAKING
        for signum in self.at.get(self.batches, []):
            signal.raise_signal(signum)
        return self.augmentation(*arguments)


def test_a_run_that_is_stopped_goes_on_with_the_seconds_of_its_last_update(tmp_path: Path, clock: Clock) -> None:
    """An update is a batch that is made and two passes."""
    throughput = Throughput()
    checkpoints = Checkpoints(tmp_path, "val/acc")
    interruption = Interruption(checkpoints)
    options = {"enable_checkpointing": True, "plugins": [AtomicCheckpointIO()]}
    source = data()
    Signals(source, {2: [signal.SIGTERM]})
    with interruption, pytest.raises(Interrupted):
        callbacks = [throughput, interruption, checkpoints]
        fit(task(ticking((1, 8, 8), 4)), source, tmp_path, callbacks=callbacks, **options)
    expected = {"seconds": 4.5, "samples": 32, "images": 64, "gradient_evaluations": 64}
    assert throughput.state_dict() == expected and throughput.elapsed == 4.5
    clock.now += 50
    assert throughput.state_dict() == expected, "the clock stands"
    assert load_checkpoint(checkpoints.last_path)["callbacks"]["Throughput"] == expected
    source, again = data(), Throughput()
    Signals(source, {})
    callbacks = [again, Checkpoints(tmp_path / "again", "val/acc")]
    fit(task(ticking((1, 8, 8), 4)), source, tmp_path, checkpoints.last_path, callbacks=callbacks, **options)
    assert again.state_dict() == {"seconds": 6 * 2.25, "samples": 96, "images": 192, "gradient_evaluations": 192}
    assert again.images_per_second == 192 / 13.5


def test_before_the_first_update_there_is_no_rate() -> None:
    counts = dict.fromkeys(("images", "samples", "gradient_evaluations"), 0)
    assert Throughput().summary() == {"seconds": 0.0, "images_per_second": 0.0, **counts}


def test_an_error_stops_the_clock(tmp_path: Path, clock: Clock) -> None:
    class Fails(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            raise MemoryError

    throughput = Throughput()
    with pytest.raises(MemoryError):
        fit(task(ticking((1, 8, 8), 4)), data(), tmp_path, callbacks=[throughput, Fails()])
    clock.now += 50
    assert throughput.elapsed == 2.0


# --- what is said ----------------------------------------------------------------------------------------------------


def said(*overrides: str, folder: Path) -> list[str]:
    """A run's lines on standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        tiny_run(folder, *overrides)
    return stream.getvalue().splitlines()


def test_an_epoch_s_line(tmp_path: Path, clock: Clock) -> None:
    lines = [line for line in said(*TICKING, "epochs=3", folder=tmp_path) if line.startswith("epoch")]
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "lr" in row]
    assert len(lines) == len(rows) == 3
    for number, (line, row, left) in enumerate(zip(lines, rows, (6, 3, 0), strict=True), 1):
        figures = [float(row[name]) for name in ("train/loss", "val/loss", "val/acc")]
        loss, val_loss, val_acc = (f"{figure:.4f}" for figure in figures)
        assert line == (
            f"epoch {number}/3  loss {loss}  val loss {val_loss}  val acc {val_acc}  27 images/s  {left} s left"
        )


def test_a_line_every_two_seconds_at_most_and_the_last_in_any_case(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    class Waits(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            clock.now += 1.1
            pl_module.epoch_row.add({"fid": 12.34567})

    throughput = Throughput()
    progress = RunProgress(throughput)
    fit(task(), data(16), tmp_path, max_epochs=6, callbacks=[throughput, progress, Waits()], enable_progress_bar=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1/6", "3/6", "5/6", "6/6"]
    assert all("  FID 12.3457  " in line for line in lines)


def test_lightning_prints_to_standard_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    RunProgress(Throughput()).print("some", "words")
    assert capsys.readouterr() == ("", "some words\n")


def test_other_processes_are_silent(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(Throughput())
    progress.disable()
    fit(task(), data(16), tmp_path, callbacks=[progress], enable_progress_bar=True)
    progress.print("words")
    assert capsys.readouterr().err == ""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is one, as far as rich knows."""
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)


def on_screen(text: str) -> list[str]:
    """Lines without their colours and movements."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if line.strip()]


def test_the_bar_of_a_terminal(
    tmp_path: Path, clock: Clock, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    throughput = Throughput()
    callbacks = [throughput, progress := RunProgress(throughput)]
    ours = task(ticking((1, 8, 8), 4))
    fit(ours, data(), tmp_path, callbacks=callbacks, enable_progress_bar=True)
    lines = on_screen(capsys.readouterr().err)
    last = lines[-1]
    assert "epoch 2/2" in last and "100%" in last and " 16 images/s" in last
    assert f"loss {ours.epoch_row.last['train/loss']:.4f}" in last
    assert progress.bar is None and not any(line.startswith("epoch 1/2  loss") for line in lines)


def test_a_bar_of_a_run_that_fails_is_closed(
    tmp_path: Path, terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fails(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                raise MemoryError

    progress = RunProgress(Throughput())
    with pytest.raises(MemoryError):
        fit(task(), data(), tmp_path, callbacks=[progress, Fails()], enable_progress_bar=True)
    last = on_screen(capsys.readouterr().err)[-1]
    assert progress.bar is None and "epoch 1/2" in last and " 50%" in last


def frozen(image_shape: tuple[int, int, int], num_classes: int) -> SplitNetwork:
    """A network whose first part does not learn."""
    model = small_cnn(image_shape, num_classes, width=8)
    model.backbone.early.requires_grad_(False)
    return model


@pytest.mark.parametrize("fraction", [0.3, 0.0])
def test_the_overview_says_that_a_fraction_holds_nothing_out(
    fraction: float, capsys: pytest.CaptureFixture[str]
) -> None:
    part = ImageSet(torch.randint(0, 256, (40, 3, 6, 5), dtype=torch.uint8), torch.arange(40) % 4)
    splits = Splits(part, part, tuple("abcd"), "", val=ImageSet(part.images[:8], part.targets[:8]))
    module = ViewsDataModule(lambda: splits, Augmentation(0, False, 0), val_fraction=fraction)
    module.setup()
    print_overview(frozen((3, 6, 5), 4), module)
    said = "validation: the set's own part; data.val_fraction=0.3 holds nothing out" in capsys.readouterr().err
    assert said == (fraction > 0) and len(module.val_index) == 8 * said and len(module.train_index) == 40


@pytest.mark.parametrize(
    ("cutout", "prob", "said"), [(5, 0.5, True), (4, 0.5, False), (5, 0.0, False), (0, 0.5, False)]
)
def test_the_overview_says_that_a_cutout_leaves_little(
    cutout: int, prob: float, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    part = ImageSet(torch.randint(0, 256, (40, 3, 6, 5), dtype=torch.uint8), torch.arange(40) % 4)
    module = ViewsDataModule(lambda: Splits(part, part, tuple("abcd"), ""), Augmentation(0, False, cutout, prob))
    module.setup()
    print_overview(frozen((3, 6, 5), 4), module)
    line = "data.augmentation.cutout=5 hides most of an image: set it to 2, or to 0"
    assert (line in capsys.readouterr().err.splitlines()) == said


def test_the_overview_counts_images_layers_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    images = torch.randint(0, 256, (1100, 3, 6, 5), dtype=torch.uint8)
    targets = torch.arange(1100) % 4
    splits = Splits(ImageSet(images, targets), ImageSet(images[:30], targets[:30]), tuple("abcd"), "")
    module = ViewsDataModule(lambda: splits, Augmentation(0, False, 0), label_noise=Symmetric(0.25), val_fraction=0.04)
    module.setup()
    print_overview(frozen((3, 6, 5), 4), module)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "data: 1,056 train, 44 validation, 30 test images of 3x6x5, 4 classes",
        "label noise: symmetric, 264 of 1,056 training labels are wrong (25.00%)",
    ]
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert table == [
        ["backbone.early", "13", "4,344", "0"],
        ["backbone.last_stage", "8", "13,952", "13,952"],
        ["head", "1", "132", "132"],
        ["all", "21", "18,428", "14,084"],
    ]


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Scores(Callback):
    """Logs a metric of each epoch; None for none."""

    def __init__(self, values: list[float | None]) -> None:
        self.values = values

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        value = self.values[trainer.current_epoch]
        if value is not None:
            pl_module.log("score", value)


def saved_by(callbacks: list[Callback], source: ViewsDataModule, folder: Path, **options: Any) -> Trainer:
    settings = {"enable_checkpointing": True, "plugins": [AtomicCheckpointIO()]} | options
    return fit(task(), source, folder, callbacks=callbacks, **settings)


NAN = float("nan")


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.1, 0.4, 0.2], 1),
        ("min", [0.4, 0.1, 0.2], 1),
        ("max", [0.4, 0.1, 0.2], 0),
        ("min", [-0.1, -0.3, -0.2], 1),
        ("max", [0.3, 0.3, 0.1], 0),  # of equal ones the first
        ("min", [0.3, 0.3, 0.4], 0),
        ("max", [0.3, NAN, 0.2], 0),
        ("max", [NAN, 0.2, 0.1], 1),  # any number is better than none
        ("min", [NAN, 0.2, 0.1], 2),
        ("max", [None, None, None], 2),  # nothing to tell them by: the last
        ("max", [None, 0.1, 0.05], 1),
    ],
)
def test_the_best_checkpoint_is_that_of_the_best_epoch(
    tmp_path: Path, mode: str, values: list[float | None], best: int
) -> None:
    checkpoints = Checkpoints(tmp_path, "score", mode)
    saved_by([Scores(values), checkpoints], data(16), tmp_path, max_epochs=3)
    assert load_checkpoint(checkpoints.best_path)["epoch"] == best
    assert load_checkpoint(checkpoints.last_path)["epoch"] == 2
    assert load_checkpoint(tmp_path / "previous.ckpt")["epoch"] == 1
    value = values[best]
    assert checkpoints.state_dict() == {
        "best": None if value is None else pytest.approx(value),
        "best_epoch": best,
    }
    assert (checkpoints.last_path, checkpoints.best_path) == (tmp_path / "last.ckpt", tmp_path / "best.ckpt")


@pytest.mark.parametrize(("later", "best"), [(0.3, 0), (0.5, 2)])
def test_a_resumed_run_knows_what_was_best(tmp_path: Path, later: float, best: int) -> None:
    values: list[float | None] = [0.4, 0.1, later]
    saved_by([Scores(values), Checkpoints(tmp_path, "score")], data(16), tmp_path, max_epochs=2)
    checkpoints = Checkpoints(tmp_path, "score")
    saved_by([Scores(values), checkpoints], data(16), tmp_path, max_epochs=3, resume=checkpoints.last_path)
    assert load_checkpoint(checkpoints.best_path)["epoch"] == checkpoints.best_epoch == best
    assert checkpoints.best == pytest.approx(max(0.4, later))


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Checkpoints(tmp_path, "score", "largest")


class Saved(Callback):
    """The updates after which last.ckpt was written, as they are found when the next batch, or the end, comes."""

    def __init__(self, path: Path, wait: Callable[[], None] = lambda: None) -> None:
        self.path, self.wait, self.steps = path, wait, []  # type: ignore[var-annotated]

    def look(self) -> None:
        if self.path.exists() and (step := load_checkpoint(self.path)["global_step"]) not in self.steps:
            self.steps.append(step)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.look()
        self.wait()

    def on_fit_end(self, trainer: Trainer, *_: Any) -> None:
        self.look()


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [5, 10]),
        ({"every_n_steps": 2}, [2, 4, 5, 6, 8, 10]),
        ({"every_n_steps": 5}, [5, 10]),
        ({"every_n_minutes": 1.0}, [2, 4, 5, 7, 9, 10]),  # an update takes 30.5 seconds: after two it is time
        ({"every_n_minutes": 1.6}, [4, 5, 9, 10]),
        ({"every_n_minutes": 30.5 / 60}, [2, 4, 5, 7, 9, 10]),  # older than that, not as old
    ],
)
def test_checkpoints_within_an_epoch(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], steps: list[int]
) -> None:
    """An epoch has five updates. The clock starts with the training, and again when a checkpoint has been written."""
    checkpoints = Checkpoints(tmp_path, "val/acc", **options)
    clock.now += 1e6

    def wait() -> None:
        clock.now += 30.5

    watch = Saved(checkpoints.last_path, wait)
    saved_by([watch, checkpoints], data(80), tmp_path)
    assert watch.steps == steps


def test_a_disk_that_does_not_know_links_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", unknown)
    saved_by([Checkpoints(tmp_path, "score")], data(16), tmp_path, max_epochs=2)
    found = {path.name: load_checkpoint(path)["global_step"] for path in tmp_path.glob("*.ckpt")}
    assert found == {"last.ckpt": 2, "best.ckpt": 2, "previous.ckpt": 1}


def test_where_the_last_checkpoint_is_missing_the_one_before_is_used(tmp_path: Path) -> None:
    saved_by([Checkpoints(tmp_path, "score")], data(16), tmp_path, max_epochs=2)
    assert newest_checkpoint(tmp_path)[1]["epoch"] == 1
    (tmp_path / "last.ckpt").unlink()
    path, found = newest_checkpoint(tmp_path)
    assert path == tmp_path / "previous.ckpt" and found["epoch"] == 0
    path.unlink()
    with pytest.raises(UserError, match=r"there is no checkpoint .*last\.ckpt"):
        newest_checkpoint(tmp_path)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")

    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError

    with pytest.raises(OSError):
        atomic(path, fails)
    with pytest.raises(ZeroDivisionError):
        atomic(path, lambda temporary: temporary.write_text("whole"), lambda _: 1 / 0)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "before")]
    seen = []
    atomic(path, lambda new: new.write_text("whole"), lambda new: seen.append((path.read_text(), new.read_text())))
    assert seen == [("before", "whole")] and [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "whole")]


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of the signals are afterwards what they were."""
    before = [signal.getsignal(signum) for signum in STOPPING]
    yield
    assert [signal.getsignal(signum) for signum in STOPPING] == before


def interrupted(folder: Path, at: dict[int, list[int]], **options: Any) -> tuple[int, Trainer]:
    """The signal that a run of 2 epochs of 3 batches ends by, and its trainer."""
    checkpoints = Checkpoints(folder, "val/acc")
    interruption, source, trainers = Interruption(checkpoints), data(), []

    class Keep(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            trainers.append(trainer)

    Signals(source, at)
    with interruption, pytest.raises(Interrupted) as stop:
        saved_by([Keep(), interruption, checkpoints], source, folder, **options)
    return stop.value.signum, trainers[0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_each_signal_saves_after_the_update_that_is_under_way(
    tmp_path: Path, handlers: None, capsys: pytest.CaptureFixture[str], signum: int
) -> None:
    found, trainer = interrupted(tmp_path, {2: [signum]})
    assert found == signum and trainer.global_step == 2
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2
    assert capsys.readouterr().err == "stopping after this step (again to stop at once) ...\n"


@pytest.mark.parametrize(("batch", "epochs"), [(3, 1), (6, 2)])
def test_a_signal_in_an_epoch_s_last_update_waits_for_its_end(
    tmp_path: Path, handlers: None, batch: int, epochs: int
) -> None:
    found, trainer = interrupted(tmp_path, {batch: [signal.SIGTERM]})
    assert found == signal.SIGTERM and trainer.global_step == batch
    assert load_checkpoint(tmp_path / "last.ckpt")["epoch"] == epochs - 1
    assert load_checkpoint(tmp_path / "best.ckpt")["global_step"] == batch


def test_a_second_signal_stops_at_once(tmp_path: Path, handlers: None) -> None:
    found, trainer = interrupted(tmp_path, {5: [signal.SIGTERM, signal.SIGINT]})
    assert found == signal.SIGINT and trainer.global_step == 4
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3  # of the first epoch's end


def test_outside_of_training_a_signal_stops_at_once(tmp_path: Path, handlers: None) -> None:
    interruption = Interruption(Checkpoints(tmp_path, "score"))
    with interruption:
        with pytest.raises(Interrupted) as stop:
            signal.raise_signal(signal.SIGUSR1)
        assert stop.value.signum == signal.SIGUSR1
        saved_by([interruption], data(), tmp_path)
        with pytest.raises(Interrupted):  # training is over
            signal.raise_signal(signal.SIGTERM)


def test_without_a_signal_nothing_stops(tmp_path: Path, handlers: None, capsys: pytest.CaptureFixture[str]) -> None:
    interruption = Interruption(Checkpoints(tmp_path, "score"))
    with interruption:
        assert saved_by([interruption], data(), tmp_path).global_step == 6
    assert capsys.readouterr().err == ""


def test_a_thread_has_no_say_in_signals(tmp_path: Path, handlers: None) -> None:
    found = []

    def enter() -> None:
        with Interruption(Checkpoints(tmp_path, "score")):
            found.extend(signal.getsignal(signum) for signum in STOPPING)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signum) for signum in STOPPING]


# --- AGR's coefficients ----------------------------------------------------------------------------------------------


def coefficients(params: list[nn.Parameter]) -> dict[str, float]:
    """Of the gradients' entries, by the size of their tensor; the network has two sizes."""
    found = {}
    for name, fits in (("2-99", lambda n: n < 100), ("100-9999", lambda n: n >= 100)):
        grads = [p.grad.abs() for p in params if p.grad is not None and fits(p.numel())]
        entries = torch.cat([(g / g.sum()).flatten() for g in grads])
        found[f"agr/mean_coef/{name}"], found[f"agr/max_coef/{name}"] = float(entries.mean()), float(entries.max())
    return found


def agr_by_hand(params: list[nn.Parameter]) -> None:
    for p in params:
        assert p.grad is not None
        p.grad *= 1 - p.grad.abs() / p.grad.abs().sum()


def agr_rows(folder: Path, every: int, **options: Any) -> list[dict[str, float]]:
    """What is logged, the same to each of two loggers."""
    loggers = [CsvLogger(folder / name) for name in ("one.csv", "two.csv")]
    fit(task(**options), data(50), folder, callbacks=[AGRStatistics()], logger=loggers, log_every_n_steps=every)
    one, two = ([row for row in read_metrics(logger.path) if "step/loss" not in row] for logger in loggers)
    assert one == two
    return [{k: float(v) for k, v in row.items()} for row in one if "lr" not in row]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({}, lambda params: None),
        ({"clip_norm": 0.05}, lambda params: nn.utils.clip_grad_norm_(params, 0.05)),
        ({"clip_value": 1e-3}, lambda params: nn.utils.clip_grad_value_(params, 1e-3)),
        ({"accumulate": 2, "penalty": NoPenalty()}, lambda params: None),
    ],
    ids=["plain", "norm", "value", "accumulated"],
)
def test_the_coefficients_are_of_the_clipped_gradients(
    tmp_path: Path, options: dict[str, Any], clip: Callable[..., Any], every: int
) -> None:
    expected: list[dict[str, float]] = []

    def change(params: list[nn.Parameter]) -> None:
        clip(params)
        expected.append(coefficients(params))
        agr_by_hand(params)

    plain_loop(task(penalty=options.get("penalty", task().penalty)), data(50), change)
    rows = agr_rows(tmp_path, every, wrap=AGR, **options)
    steps = range(every, 9, every)
    assert [(row.pop("step"), row.pop("epoch")) for row in rows] == [(step, (step - 1) // 4) for step in steps]
    for row, step in zip(rows, steps, strict=True):
        assert row == {name: pytest.approx(value, rel=1e-3) for name, value in expected[step - 1].items()}


def test_of_sam_s_two_gradients_those_of_the_update_are_logged(tmp_path: Path) -> None:
    expected: list[dict[str, float]] = []
    passes = [0]

    def change(params: list[nn.Parameter]) -> None:
        passes[0] += 1
        if passes[0] % 2 == 0:
            expected.append(coefficients(params))
            agr_by_hand(params)

    by_hand(task().model, data(50), 0.2, change)
    rows = agr_rows(tmp_path, 1, penalty=NoPenalty(), wrap=partial(sam_agr, rho=0.2))
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row, found in zip(rows, expected, strict=True):
        assert {name: row[name] for name in found} == {n: pytest.approx(v, rel=1e-3) for n, v in found.items()}


def test_of_agr_by_row_the_coefficients_are_those_of_rows(tmp_path: Path) -> None:
    expected: list[Tensor] = []

    def change(params: list[nn.Parameter]) -> None:
        rows = [row.abs() for p in params if p.ndim > 1 for row in p.grad.flatten(1)]  # type: ignore[union-attr]
        expected.append(torch.stack([(row / row.sum()).max() for row in rows if len(row) < 100]).max())
        for p in params:
            if p.ndim > 1:
                g = p.grad.flatten(1)  # type: ignore[union-attr]
                p.grad = (g * (1 - g.abs() / g.abs().sum(1, keepdim=True))).view_as(p)

    by_row = partial(AGR, granularity="row")
    plain_loop(task(), data(50), change)
    found = [row["agr/max_coef/2-99"] for row in agr_rows(tmp_path, 1, wrap=by_row)]
    assert found == pytest.approx([float(value) for value in expected], rel=1e-3)


@pytest.mark.parametrize(
    ("wrap", "logged"),
    [(None, False), (SAM, False), (AGR, True), (sam_agr, True), (lambda optimizer: AGR(SAM(optimizer)), True)],
)
def test_coefficients_are_logged_where_agr_is(tmp_path: Path, wrap: Any, logged: bool) -> None:
    rows = agr_rows(tmp_path, 1, penalty=NoPenalty(), wrap=wrap)
    assert len(rows) == (8 if logged else 0)


def test_no_coefficients_of_an_update_that_is_skipped(tmp_path: Path) -> None:
    ours = task(wrap=AGR, penalty=NoPenalty(), non_finite="skip")
    calls, criterion = [0], ours.criterion

    def spoiled(output: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        return criterion(output, target) * (NAN if calls[0] in (3, 4) else 1.0)  # both views of the second update

    ours.criterion = spoiled  # type: ignore[method-assign]
    logger = CsvLogger(tmp_path / "metrics.csv")
    fit(ours, data(), tmp_path, callbacks=[AGRStatistics()], logger=[logger], log_every_n_steps=1)
    steps = [row["step"] for row in read_metrics(logger.path) if "agr/mean_coef/2-99" in row]
    assert steps == ["1", "3", "4", "5", "6"]


def test_the_rows_of_agr_survive_a_stop_within_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted by the checkpoint of their own update."""
    settings = ["regularizer=agr", "trainer.log_every_n_steps=1", "epochs=1"]
    with monkeypatch.context() as patch:
        stop_after(patch, 2, signal.SIGTERM)
        with pytest.raises(Interrupted):
            tiny_run(tmp_path, *settings)
    before = read_metrics(tmp_path / "metrics.csv")
    tiny_run(tmp_path, *settings, f"resume={tmp_path}")
    after = read_metrics(tmp_path / "metrics.csv")
    assert len(before) == 4 and after[:4] == before
    assert [row["step"] for row in after if "agr/mean_coef/2-99" in row] == ["1", "2", "3"]


# --- rows ------------------------------------------------------------------------------------------------------------


def text(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_rows_of_metrics_csv(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = CsvLogger(path)
    assert text(path) == [["step"]]
    logger.log_metrics({"a": 1.5}, step=3)
    logger.log_metrics({"b": 0.25, "a": 2}, step=4)
    logger.log_metrics({"b": 0.5})
    expected = [["step", "a", "b"], ["3", "1.5", ""], ["4", "2", "0.25"], ["0", "", "0.5"]]
    assert text(path) == expected
    assert read_metrics(path) == [
        {"step": "3", "a": "1.5"},
        {"step": "4", "a": "2", "b": "0.25"},
        {"step": "0", "b": "0.5"},
    ]
    assert written([SimpleNamespace(), logger]) == (3, logger.path.read_bytes().decode()) and written([]) == (0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert (logger.name, logger.version) == ("metrics", "")


@pytest.mark.parametrize(("kept", "columns"), [(2, ["step", "a", "b"]), (1, ["step", "a"]), (0, ["step"])])
def test_a_run_that_goes_on_keeps_the_rows_that_it_saved(tmp_path: Path, kept: int, columns: list[str]) -> None:
    before = CsvLogger(tmp_path / "metrics.csv")
    for step, row in ((1, {"a": 1.0}), (2, {"b": 2.0}), (3, {"c": 3.0})):
        before.log_metrics(row, step)
    (after,) = csv_loggers(tmp_path, rows=kept)
    assert text(tmp_path / "metrics.csv")[0] == columns
    after.log_metrics({"a": 9.0}, step=7)
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.csv")]
    assert steps == [*["1", "2"][:kept], "7"] and written([after])[0] == kept + 1


def scalars(folder: Path) -> dict[tuple[str, int], list[float]]:
    """(name, step) -> what TensorBoard shows."""
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    found: dict[tuple[str, int], list[float]] = {}
    for name in board.Tags()["scalars"]:
        for event in board.Scalars(name):
            found.setdefault((name, event.step), []).append(event.value)
    return found


def test_tensorboard_has_every_figure_of_metrics_csv(tmp_path: Path) -> None:
    settings = ["logger=tensorboard", "regularizer=gvr", "trainer.log_every_n_steps=2", "scheduler=constant"]
    tiny_run(tmp_path, *settings, "epochs=1")
    tiny_run(tmp_path, *settings, f"resume={tmp_path}")
    shown, rows = scalars(tmp_path), read_metrics(tmp_path / "metrics.csv")
    assert len(rows) == 6  # three of steps, two of epochs, the test's
    for row in rows:
        for name in row.keys() - {"step", "epoch"}:
            assert shown[name, int(row["step"])] == [pytest.approx(float(row[name]), rel=1e-6)], name


@pytest.mark.parametrize(("saved", "expected"), [(2, [1, 2, 30, 40]), (0, [1, 2, 3, 30, 40])])
def test_what_a_killed_run_showed_after_its_last_checkpoint_is_dropped(
    tmp_path: Path, saved: int, expected: list[int]
) -> None:
    *_, board = tensorboard(tmp_path)
    for step in (1, 2, 3):
        board.log_metrics({"a": step}, step)
    board.finalize("")
    *_, board = tensorboard(tmp_path, step=saved)
    for step in (3, 4):
        board.log_metrics({"a": 10 * step}, step)
    board.finalize("")
    assert sorted(value for values in scalars(tmp_path).values() for value in values) == expected


# --- the summary -----------------------------------------------------------------------------------------------------


def test_every_figure_of_the_summary(finished: Callable[..., Path]) -> None:
    folder = finished("regularizer=gvr")
    told = json.loads((folder / "summary.json").read_text())
    rows = read_metrics(folder / "metrics.csv")
    epochs = [row for row in rows if "lr" in row]
    figures = {name: value for name, value in epochs[-1].items() if name not in ("step", "epoch", "lr")}
    figures |= {name: value for name, value in rows[-1].items() if name.startswith("test/") or name == "temperature"}
    figures["val/acc_best"] = max((row["val/acc"] for row in epochs), key=float)
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)
    assert told.pop("metrics") == {name: pytest.approx(float(value), rel=1e-6) for name, value in figures.items()}
    train = told.pop("train")
    assert train["seconds"] == pytest.approx(float(epochs[-1]["train/seconds"]), abs=6e-4)
    assert train["images_per_second"] == pytest.approx(320 / float(epochs[-1]["train/seconds"]), rel=1e-2)
    assert {key: value for key, value in train.items() if "second" not in key} == {
        "epochs": 2,
        "steps": 6,
        "images": 320,
        "samples": 160,
        "gradient_evaluations": 320,
    }
    assert told.pop("versions") == {
        "python": platform.python_version(),
        **{
            name: version(name)
            for name in (
                *("gvr-lightning", "torch", "lightning", "hydra-core", "omegaconf"),
                *("torchmetrics", "diffusers", "timm", "numpy"),
            )
        },
    }
    assert told.pop("machine") == {
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    assert set(told.pop("git")) == {"commit", "dirty"}
    checkpoint = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert told == {
        "status": "finished",
        "task": "classification",
        "world_size": 1,
        "seed": 0,
        "classes": [str(i) for i in range(10)],
        "config_hash": config_hash(config),
        "data_hash": checkpoint["ViewsDataModule"]["data_hash"],
        "data_size": {"train": 80, "val": 72, "test": 360},
    }


def leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def changed(config: Any, path: tuple[str, ...]) -> Any:
    """A copy with another value there."""
    if not path:
        return "another"
    return {**config, path[0]: changed(config[path[0]], path[1:])}


def test_the_configuration_s_hash_tells_every_key_apart_that_defines_a_run(finished: Callable[..., Path]) -> None:
    config: Any = OmegaConf.to_container(OmegaConf.load(finished("regularizer=gvr") / "config.yaml"), resolve=True)
    config["logger"]["sweep"] = "a folder"
    paths = list(leaves(config))
    hashes = {path: config_hash(changed(config, path)) for path in paths}
    unmoved = {path for path, value in hashes.items() if value == config_hash(config)}
    assert unmoved == {("name",), ("resume",), ("trust",), ("logger", "sweep")}
    assert len(set(hashes.values())) == len(paths) - 3 and len(paths) > 50
    backwards = dict(reversed(config.items()))
    assert config_hash(backwards) == config_hash(config)
    assert config_hash({**config, "logger": None}) != config_hash(config)


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", str(folder), *name, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_and_whether_the_code_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr("gvr_lightning.git.__file__", str(package / "git.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    unknown = {"commit": None, "dirty": None}
    assert summary.git_state() == unknown, "no checkout"
    git(tmp_path, "init", "-q")
    (tmp_path / "notes").write_text("of another project")
    git(tmp_path, "add", "notes")
    git(tmp_path, "commit", "-q", "-m", "notes")
    (package / "__init__.py").write_text("")
    assert summary.git_state() == unknown, "a checkout of another project, in which the package is installed"
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-q", "-m", "package")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert summary.git_state() == {"commit": commit, "dirty": False}
    (tmp_path / "outputs").write_text("of a run")
    assert summary.git_state() == {"commit": commit, "dirty": False}
    (package / "__init__.py").write_text("changed = True")
    assert summary.git_state() == {"commit": commit, "dirty": True}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert summary.git_state() == unknown, "no git"


def test_a_failure_is_written_over_what_was_said_before(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    summary.write_failure(folder, {"seed": 4}, MemoryError("no room"))
    told = summary.read_summary(folder)
    assert (told["status"], told["error"], told["seed"]) == ("failed", "no room", 4)
    assert told["config_hash"] == config_hash({"seed": 4}) and told["versions"] and told["machine"]
    summary.write_summary(folder / "summary.json", {"status": "finished", "metrics": {"test/acc": 0.5}, "seed": 7})
    summary.write_failure(folder, {"seed": 4}, "killed")
    told = summary.read_summary(folder)
    assert (told["status"], told["error"], told["seed"]) == ("failed", "killed", 7)
    assert told["metrics"] == {"test/acc": 0.5} and "git" in told
    assert [path.name for path in folder.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("content", [None, "", "[1]", "{"])
def test_a_summary_that_cannot_be_read_is_empty(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    assert summary.read_summary(tmp_path) == {}


class OnlyEnds(Callback):
    """Says when a batch ends."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Count it."""
        self.ended = getattr(self, "ended", 0) + 1


class OnlyEndsToo(OnlyEnds):
    """Has its hook from another callback of somebody's, and one that an object got for itself."""

    def __init__(self) -> None:
        self.on_before_backward = lambda *_: None


def test_lightning_passes_over_a_step_s_empty_hooks_and_no_others() -> None:
    for callback, own in ((OnlyEnds(), set()), (OnlyEndsToo(), {"on_before_backward"})):
        pass_over(callback)
        kept = {name for name in OF_A_STEP if callable(getattr(callback, name))}
        assert kept == {"on_train_batch_end"} | own
        assert callable(callback.on_train_epoch_end)  # once an epoch costs nothing
        trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False)
        trainer.callbacks = [callback]
        for name in OF_A_STEP:
            _call_callback_hooks(trainer, name)
        assert callback.ended == 1
