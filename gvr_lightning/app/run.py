"""One run: build, fit, test, summary."""

import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf

from gvr_lightning.app.build import build_data, build_generation, build_task
from gvr_lightning.app.trainer import build_trainer
from gvr_lightning.callbacks.agr_statistics import AGRStatistics
from gvr_lightning.callbacks.checkpoints import Checkpoints, newest_checkpoint
from gvr_lightning.callbacks.generation import Generation
from gvr_lightning.callbacks.interruption import Interruption
from gvr_lightning.callbacks.progress import RunProgress
from gvr_lightning.callbacks.throughput import Throughput
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.place import one_a_machine_first
from gvr_lightning.distributed.strategies import load_whole
from gvr_lightning.errors import Interrupted, TrainingError, UserError
from gvr_lightning.files import load_checkpoint
from gvr_lightning.instantiate import make
from gvr_lightning.recording.csv import METRICS, trackers
from gvr_lightning.recording.curves import draw_curves
from gvr_lightning.recording.overview import print_overview
from gvr_lightning.recording.summary import SUMMARY, origin, read_summary, write_failure, write_summary
from gvr_lightning.tasks.base import BaseTask

ALL = sys.maxsize  # rows of metrics.csv, where a checkpoint of an earlier version does not say how many
SILENCED = (
    ".*smaller than the logging interval.*",  # a short epoch has its own row
    "Total length of .* across ranks is zero.*",  # a run without a validation part
    ".*does not have many workers.*",  # the loaders hand out numbers; workers would only slow them down
    ".*dataloader is not resumable.*",  # it is: it starts at the batch that the loop says
    "It is recommended to use .*sync_dist=True.*",  # what is logged is the same on every process
    ".*treespec, LeafSpec.*",  # Lightning's own use of a deprecated torch name
)


def run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Train and test as configured; summary.json and curves.png are written however it ends.

    Of several processes, which have met before, every one calls this; the first alone writes files.

    Args:
        cfg: the composed configuration.
        folder: where everything goes; of a run that is resumed, its own.

    Returns:
        What summary.json holds.

    Raises:
        UserError: for what the configuration's check could not see.
        TrainingError: if training cannot go on.
        Interrupted: for a signal; all is saved.
    """
    quiet()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    try:
        parts = _build(cfg, config, folder)
    except (UserError, TrainingError, OSError) as error:
        if rank_and_size()[0] == 0 and not read_summary(folder):
            write_failure(folder, config, error)
        raise
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
    generation: Generation | None
    resume: Path | None  # the checkpoint to go on from


def _build(cfg: DictConfig, config: dict[str, Any], folder: Path) -> _Parts:
    path, checkpoint = newest_checkpoint(folder / "checkpoints") if cfg.resume else (None, {})
    done, epochs = checkpoint.get("epoch", 0), cfg.trainer.max_epochs
    if done > epochs:
        raise UserError(f"epochs={epochs}: the run has done {done} already; give at least as many")
    first = rank_and_size()[0] == 0
    seed_everything(cfg.seed, verbose=False)
    with one_a_machine_first():
        data = build_data(cfg)
    task = build_task(cfg, data)
    task.config = config
    checkpoints = Checkpoints(folder / "checkpoints", task.monitor, task.mode, **cfg.checkpoint)
    throughput = Throughput()
    interruption, progress = Interruption(checkpoints), RunProgress(throughput)
    with one_a_machine_first():
        generation = build_generation(cfg, data, task, folder, progress)
    callbacks: list[Callback] = [throughput, AGRStatistics(), interruption, checkpoints, progress]
    callbacks += [generation] if generation else []
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    trainer = build_trainer(cfg, folder, callbacks)
    trainer.precision_plugin.convert_module(task)  # before a checkpoint is loaded: Lightning would round it to float32
    if first:
        print_overview(task.model, data)
        written = {"step": checkpoint.get("global_step", 0), "rows": checkpoint.get("metrics_rows", ALL if path else 0)}
        trainer.loggers = make(cfg.logger, "logger")(folder, **written, config=config)  # last: they have to be closed
    return _Parts(data, task, trainer, checkpoints, throughput, interruption, generation, path)


def _fit_and_test(cfg: DictConfig, config: dict[str, Any], folder: Path, parts: _Parts) -> dict[str, Any]:
    task, checkpoints, generation = parts.task, parts.checkpoints, parts.generation
    outcome: dict[str, Any] = {"status": "failed"}
    tested: dict[str, Any] = {}
    try:
        with parts.interruption:
            parts.trainer.fit(task, parts.data, ckpt_path=parts.resume)
            path = {"last": checkpoints.last_path, "best": checkpoints.best_path}[cfg.test_on]
            tested = _test(parts.trainer, task, parts.data, path) | (generation.final if generation else {})
        outcome["status"] = "finished"
    except Interrupted:
        outcome["status"] = "interrupted"
        raise
    except Exception as error:
        outcome["error"] = str(error)
        raise
    finally:
        best = {} if checkpoints.best is None else {f"{task.monitor}_best": checkpoints.best}
        summary = outcome | _summary(config, parts, {**best, **tested})
        if generation and generation.scoring:
            summary["protocol"] = generation.scoring.protocol
        if parts.trainer.is_global_zero:
            try:
                write_summary(folder / SUMMARY, summary)
                draw_curves(folder / METRICS, folder / "curves.png", cfg.name)
            finally:
                for logger in trackers(parts.trainer.loggers):
                    logger.close(summary)
    return summary


def _summary(config: dict[str, Any], parts: _Parts, metrics: dict[str, float]) -> dict[str, Any]:
    task, trainer = parts.task, parts.trainer
    trained = {name: value for name, value in task.epoch_row.last.items() if name not in ("epoch", "lr")}
    steps = {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    return {
        "task": task.kind,
        "world_size": trainer.world_size,
        "metrics": {**trained, **metrics},
        "train": {**steps, **parts.throughput.summary()},
        "data_hash": parts.data.data_hash,
        **({"label_noise": noise} if (noise := parts.data.noise_record) else {}),
        **origin(config),
    }


def _test(trainer: Trainer, task: BaseTask, data: ViewsDataModule, checkpoint: Path) -> dict[str, float]:
    """Score the test images with a checkpoint's weights."""
    load_whole(task, load_checkpoint(checkpoint)["state_dict"])
    trainer.test(task, data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}


def quiet() -> None:
    """Lightning's hints and the warnings that say nothing here; what matters the run says itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
