"""One run: build, fit, test, summary."""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf

from gvr_lightning.app.build import CALL, build_data, build_early_stopping, build_generation, build_task
from gvr_lightning.app.folder import begin, require_places, to_go_on_from
from gvr_lightning.app.memory import keep_memory
from gvr_lightning.app.quiet import quiet
from gvr_lightning.app.single_rows import require_several_rows
from gvr_lightning.app.trainer import build_trainer
from gvr_lightning.callbacks.agr_statistics import AGRStatistics
from gvr_lightning.callbacks.changes import changes
from gvr_lightning.callbacks.checkpoints import Checkpoints
from gvr_lightning.callbacks.continuation import Continuation
from gvr_lightning.callbacks.early_stopping import EarlyStopping
from gvr_lightning.callbacks.generation import Generation
from gvr_lightning.callbacks.interruption import Interruption, signals_interrupt
from gvr_lightning.callbacks.optimizer_modes import OptimizerModes
from gvr_lightning.callbacks.progress import RunProgress
from gvr_lightning.callbacks.tested_epochs import TestedEpochs
from gvr_lightning.callbacks.throughput import Throughput
from gvr_lightning.checkpoint import load_checkpoint
from gvr_lightning.config.moved import current
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.place import one_a_machine_first
from gvr_lightning.distributed.strategies import load_whole
from gvr_lightning.errors import DivergedError, Interrupted, TrainingError, UserError
from gvr_lightning.instantiate import make, require_kind
from gvr_lightning.recording.confusion import CONFUSION, PICTURE, draw_confusion, write_confusion
from gvr_lightning.recording.csv import METRICS, trackers
from gvr_lightning.recording.curves import draw_curves
from gvr_lightning.recording.overview import print_overview
from gvr_lightning.recording.summary import SUMMARY, origin, read_summary, write_failure, write_summary
from gvr_lightning.tasks.base import BaseTask
from gvr_lightning.tasks.compiled import compiler_is_told
from gvr_lightning.tasks.finite import require_finite_figures, require_finite_weights

ALL = sys.maxsize  # rows of metrics.csv, where a checkpoint of an earlier version does not say how many


def run(cfg: DictConfig, folder: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Train and test as configured; summary.json and curves.png are written however it ends.

    Of several processes, which have met before, every one calls this; the first alone writes files.

    Args:
        cfg: the composed configuration.
        folder: where everything goes; of a run that is resumed, its own.
        overrides: the command line that it was composed with, by which the run can be resumed; None for none.

    Returns:
        What summary.json holds.

    Raises:
        UserError: for what the configuration's check could not see.
        TrainingError: if training cannot go on.
        Interrupted: for a signal; all is saved.
    """
    quiet()
    keep_memory()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    with signals_interrupt():
        return _run(cfg, config, folder, overrides)


def _run(cfg: DictConfig, config: dict[str, Any], folder: Path, overrides: list[str] | None) -> dict[str, Any]:
    try:
        parts = _build(cfg, config, folder, overrides)
    except (UserError, TrainingError, OSError, Interrupted) as error:
        if rank_and_size()[0] == 0 and not read_summary(folder):
            with suppress(OSError):  # the cause is what is told
                write_failure(folder, config, error)
        raise
    with parts.interruption:
        return _fit_and_test(cfg, config, folder, parts)


@dataclass
class _Parts:
    """What a run is made of."""

    data: ViewsDataModule
    task: BaseTask
    trainer: Trainer
    checkpoints: Checkpoints
    throughput: Throughput
    interruption: Interruption
    early_stopping: EarlyStopping
    generation: Generation | None
    resume: Path | None  # the checkpoint to go on from


def _build(cfg: DictConfig, config: dict[str, Any], folder: Path, overrides: list[str] | None) -> _Parts:
    require_places(folder)
    path, checkpoint = to_go_on_from(cfg, config, folder) if cfg.resume else (None, {})
    first = rank_and_size()[0] == 0
    seed_everything(cfg.seed, verbose=False)
    with one_a_machine_first():
        data = build_data(cfg)
    task = build_task(cfg, data)
    require_several_rows(cfg, task, data)
    task.config = config
    continuation = Continuation(changes(current(checkpoint["config"]), config) if checkpoint else None)
    continuation.require(task)
    if checkpoint:
        data.load_state_dict(checkpoint["ViewsDataModule"])  # it refuses other data, before anything is touched
    checkpoints = Checkpoints(folder / "checkpoints", task.monitor, task.mode, **cfg.checkpoint)
    early_stopping, throughput = build_early_stopping(cfg, data, task), Throughput()
    interruption, progress = Interruption(checkpoints), RunProgress(throughput)
    with one_a_machine_first():
        generation = build_generation(cfg, data, task, folder, progress)
    callbacks: list[Callback] = [
        early_stopping,
        continuation,
        OptimizerModes(),
        throughput,
        AGRStatistics(),
        interruption,
        checkpoints,
        progress,
    ]
    callbacks += [generation] if generation else []
    callbacks += [TestedEpochs(cfg.test_every_n_epochs)] if cfg.get("test_every_n_epochs") else []
    if first:
        begin(folder, config, overrides, checkpoint)
    trainer = build_trainer(cfg, folder, callbacks)
    require_kind(trainer, Trainer, f"trainer._target_={cfg.trainer._target_}")
    trainer.precision_plugin.convert_module(task)  # before a checkpoint is loaded: Lightning would round it to float32
    if first:
        print_overview(task.model, data, str(cfg.trainer.precision))
        written = {"step": checkpoint.get("global_step", 0), "rows": checkpoint.get("metrics_rows", ALL if path else 0)}
        trainer.loggers = make(cfg.logger, "logger", CALL)(
            folder, **written, config=config
        )  # last: they have to be closed
    return _Parts(data, task, trainer, checkpoints, throughput, interruption, early_stopping, generation, path)


def _fit_and_test(cfg: DictConfig, config: dict[str, Any], folder: Path, parts: _Parts) -> dict[str, Any]:
    task, checkpoints, generation = parts.task, parts.checkpoints, parts.generation
    outcome: dict[str, Any] = {"status": "failed"}
    tested: dict[str, Any] = {}
    try:
        with compiler_is_told():
            parts.trainer.fit(task, parts.data, ckpt_path=parts.resume)
            require_finite_weights(task)
            path = {"last": checkpoints.last_path, "best": checkpoints.best_path}[cfg.test_on]
            tested = _test(parts.trainer, task, parts.data, path) | (generation.final if generation else {})
        require_finite_figures(tested)
        outcome["status"] = "finished"
    except Interrupted:
        outcome["status"] = "interrupted"
        raise
    except Exception as error:
        outcome["error"] = str(error)
        if isinstance(error, DivergedError):
            outcome["diverged"] = True
        raise
    finally:
        parts.interruption.leaving = True
        best = {} if checkpoints.best is None else {f"{task.monitor}_best": checkpoints.best}
        summary = outcome | _summary(config, parts, {**best, **tested})
        if generation and generation.scoring:
            summary["protocol"] = generation.scoring.protocol
        if parts.trainer.is_global_zero:
            _leave(parts, folder, summary, cfg.name)
    return summary


def _leave(parts: _Parts, folder: Path, summary: dict[str, Any], name: str) -> None:
    """The summary, the curves and the loggers' end, each whatever becomes of the others, and of none the run's end.

    Raises:
        OSError: if the summary of a finished run cannot be written; how another one ended is told all the same.
    """
    lost: Exception | None = None
    confusion, classes = parts.task.confusion, summary["classes"]
    works: list[tuple[str, Callable[[], None]]] = [
        (SUMMARY, lambda: write_summary(folder / SUMMARY, summary)),
        (CONFUSION, lambda: write_confusion(folder, confusion, classes)),
        (PICTURE, lambda: draw_confusion(folder, confusion, classes, name)),
        ("curves.png", lambda: draw_curves(folder / METRICS, folder / "curves.png", name)),
        *((type(x).__name__, partial(x.close, summary)) for x in trackers(parts.trainer.loggers)),
    ]
    for what, work in works:
        try:
            work()
        except Exception as error:
            if what == SUMMARY and summary["status"] == "finished":
                lost = error
            else:
                print(f"{folder / what}: {' '.join(str(error).split())}", file=sys.stderr)
    if lost is not None:
        raise lost


def _summary(config: dict[str, Any], parts: _Parts, metrics: dict[str, float]) -> dict[str, Any]:
    task, trainer = parts.task, parts.trainer
    others = ("epoch", "lr", "test")
    trained = {name: value for name, value in task.epoch_row.last.items() if name.partition("/")[0] not in others}
    steps = {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    return {
        "task": task.kind,
        "world_size": trainer.world_size,
        "metrics": {**trained, **metrics},
        "train": {**steps, **parts.throughput.summary(), **parts.early_stopping.summary(trainer)},
        "classes": list(map(str, parts.data.classes)),
        "data_hash": parts.data.data_hash,
        "data_size": parts.data.sizes,
        **({"left_out": list(files)} if (files := parts.data.left_out) else {}),
        **({"label_noise": noise} if (noise := parts.data.noise_record) else {}),
        **origin(config),
    }


def _test(trainer: Trainer, task: BaseTask, data: ViewsDataModule, checkpoint: Path) -> dict[str, float]:
    """Score the test images with a checkpoint's weights."""
    load_whole(task, load_checkpoint(checkpoint)["state_dict"])
    trainer.test(task, data, verbose=False)
    found = trainer.callback_metrics.items()
    return {name: float(value) for name, value in found if name.startswith("test/") or name == "temperature"}
