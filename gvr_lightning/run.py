"""One run: build, fit, test, summary."""

import logging
import warnings
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf

from gvr_lightning.build import build_data, build_generation, build_task, build_trainer
from gvr_lightning.callbacks.agr_statistics import AGRStatistics
from gvr_lightning.callbacks.checkpoints import Checkpoints, load_checkpoint
from gvr_lightning.callbacks.interruption import Interruption
from gvr_lightning.callbacks.progress import RunProgress
from gvr_lightning.callbacks.throughput import Throughput
from gvr_lightning.curves import draw_curves
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.errors import Interrupted
from gvr_lightning.loggers import METRICS
from gvr_lightning.overview import print_overview
from gvr_lightning.summary import config_hash, git_state, versions, write_summary
from gvr_lightning.tasks.base import BaseTask

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
    quiet()
    resume = load_checkpoint(folder / "checkpoints" / "last.ckpt") if cfg.resume else None
    seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    task = build_task(cfg, data)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    task.config = config
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    checkpoints, throughput = Checkpoints(folder / "checkpoints", task.monitor, task.mode), Throughput()
    interruption, progress = Interruption(checkpoints.last_path), RunProgress(throughput)
    generation = build_generation(cfg, data, task, folder, progress)
    callbacks: list[Callback] = [throughput, interruption, checkpoints, AGRStatistics(), progress]
    callbacks += [generation] if generation else []
    loggers = instantiate(cfg.logger)(folder, resume["global_step"] if resume else 0)
    trainer = build_trainer(cfg, folder, callbacks, loggers)
    print_overview(task.model, data)
    status, tested = "failed", {}
    try:
        with interruption:
            trainer.fit(task, data, ckpt_path=checkpoints.last_path if resume else None)
            path = {"last": checkpoints.last_path, "best": checkpoints.best_path}[cfg.test_on]
            tested = _test(trainer, task, data, path) | (generation.final if generation else {})
        status = "finished"
    except Interrupted:
        status = "interrupted"
        raise
    finally:
        best = {} if checkpoints.best is None else {f"{task.monitor}_best": checkpoints.best}
        summary = _summary(status, config, trainer, task, data, throughput, {**best, **tested})
        if generation and generation.scoring:
            summary["protocol"] = generation.scoring.protocol
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
    trained = {name: value for name, value in task.last_row.items() if name not in ("epoch", "lr")}
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


def quiet() -> None:
    """Lightning's hints and the warnings that say nothing here; what matters the run says itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message)
