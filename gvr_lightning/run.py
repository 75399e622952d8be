"""One run: objects from a configuration, fit, test, summary. Nothing below this file sees a configuration."""

import logging
import warnings
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from gvr_lightning.callbacks.agr_statistics import AGRStatistics
from gvr_lightning.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints, load_checkpoint
from gvr_lightning.callbacks.interruption import Interruption
from gvr_lightning.callbacks.progress import RunProgress
from gvr_lightning.callbacks.throughput import Throughput
from gvr_lightning.curves import draw_curves
from gvr_lightning.data.augmentation import PerImage
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.errors import Interrupted, UserError
from gvr_lightning.loggers import METRICS
from gvr_lightning.overview import print_overview
from gvr_lightning.summary import config_hash, git_state, versions, write_summary
from gvr_lightning.tasks.base import BaseTask

MONITOR = "val/acc"  # decides which checkpoint is the best
DATA_KEYS = ("val_fraction", "max_train", "mean", "std", "eval_batch_size", "on_device")
SILENCED = (
    ".*smaller than the logging interval.*",  # a short epoch has its own row
    "Total length of .* across ranks is zero.*",  # a run without a validation part
    ".*does not have many workers.*",  # the loaders hand out numbers; workers would only slow them down
    ".*dataloader is not resumable.*",  # it is: it starts at the batch that the loop says
    ".*treespec, LeafSpec.*",  # Lightning's own use of a deprecated torch name
)


def run(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Train and test as configured; summary.json and curves.png are written however it ends.

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
    _quiet()
    checkpoints, throughput = Checkpoints(folder / "checkpoints", MONITOR), Throughput()
    resume = load_checkpoint(checkpoints.last_path) if cfg.resume else None
    seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    task = build_task(cfg, data)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    interruption = Interruption(checkpoints.last_path)
    callbacks = [throughput, interruption, checkpoints, AGRStatistics(), RunProgress(throughput)]
    loggers = instantiate(cfg.logger)(folder, resume["global_step"] if resume else 0)
    trainer = build_trainer(cfg, folder, callbacks, loggers)
    if trainer.world_size > 1:
        raise UserError(f"trainer.devices={cfg.trainer.devices}: one process only, as yet; set trainer.devices=1")
    print_overview(task.model, data)
    status, tested = "failed", {}
    try:
        with interruption:
            trainer.fit(task, data, ckpt_path=checkpoints.last_path if resume else None)
            path = {"last": checkpoints.last_path, "best": checkpoints.best_path}[cfg.test_on]
            tested = _test(trainer, task, data, path)
        status = "finished"
    except Interrupted:
        status = "interrupted"
        raise
    finally:
        best = {} if checkpoints.best is None else {f"{MONITOR}_best": checkpoints.best}
        summary = _summary(status, config, trainer, task, data, throughput, {**best, **tested})
        write_summary(folder / "summary.json", summary)
        draw_curves(folder / METRICS, folder / "curves.png", cfg.name)
    return summary


def _summary(
    status: str,
    config: dict[str, Any],
    trainer: Trainer,
    task: BaseTask,
    data: ViewsDataModule,
    throughput: Throughput,
    metrics: dict[str, float],
) -> dict[str, Any]:
    trained = {name: value for name, value in task.last_row.items() if name.startswith(("train/", "val/"))}
    return {
        "status": status,
        "task": task.kind,
        "seed": config["seed"],
        "world_size": trainer.world_size,
        "metrics": {**trained, **metrics},
        "train": {"epochs": trainer.current_epoch, "steps": trainer.global_step, **throughput.summary()},
        "versions": versions(),
        "git": git_state(),
        "config_hash": config_hash(config),
        "data_hash": data.data_hash,
    }


def _test(trainer: Trainer, task: BaseTask, data: ViewsDataModule, checkpoint: Path) -> dict[str, float]:
    """Score the test images with a checkpoint's weights."""
    task.load_state_dict(load_checkpoint(checkpoint)["state_dict"])
    trainer.test(task, data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}


def build_data(cfg: DictConfig) -> ViewsDataModule:
    """The data module, with its images read."""
    options = {key: cfg.data[key] for key in DATA_KEYS}
    transform, eval_transform = (make(cfg.data[key], f"data.{key}") for key in ("transform", "eval_transform"))
    data = ViewsDataModule(
        source=make(cfg.data.source, "data.source"),
        augmentation=PerImage(transform) if transform else make(cfg.data.augmentation, "data.augmentation"),
        eval_augmentation=PerImage(eval_transform) if eval_transform else None,
        views=cfg.regularizer.views,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        **options,
    )
    data.setup()
    return data


def build_task(cfg: DictConfig, data: ViewsDataModule) -> BaseTask:
    """The task, with its model, penalty, optimizer and schedule."""
    model = make(cfg.model, "model", image_shape=data.image_shape, num_classes=data.num_classes)
    parts = {
        "model": model,
        "penalty": make(cfg.regularizer.penalty, "regularizer.penalty"),
        "wrap": make(cfg.regularizer.wrap, "regularizer.wrap"),
        "optimizer": make(cfg.optimizer, "optimizer"),
        "schedule": make(cfg.scheduler, "scheduler"),
    }
    return make(cfg.task, "task", num_classes=data.num_classes, seed=cfg.seed, **parts)


def build_trainer(cfg: DictConfig, folder: Path, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    """Lightning's trainer with this project's callbacks."""
    return make(
        cfg.trainer,
        "trainer",
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )


def make(node: Any, key: str, **arguments: Any) -> Any:
    """``instantiate`` whose complaint about a value is one line with the configuration's key.

    Raises:
        UserError: if the target refuses its arguments.
    """
    try:
        return instantiate(node, _convert_="all", **arguments) if node is not None else None
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, ValueError | TypeError | MisconfigurationException):
            raise UserError(f"{key}: {' '.join(str(error.__cause__).split())}") from error
        raise


def _quiet() -> None:
    """Lightning's hints and the warnings that say nothing here; what matters the run says itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
