"""A run's folder: begun anew without losing what a run before has left there, or gone on with."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gvr_lightning.callbacks.checkpoint_files import newest_checkpoint
from gvr_lightning.checkpoint import load_checkpoint
from gvr_lightning.checkpoint_names import BEST, begun
from gvr_lightning.config.moved import current
from gvr_lightning.config.resume import refuse_another
from gvr_lightning.config.started import write_started
from gvr_lightning.errors import UserError
from gvr_lightning.files import atomic
from gvr_lightning.recording.csv import METRICS, restore_metrics
from gvr_lightning.recording.summary import SUMMARY

REQUIRED = {"config", "state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "ViewsDataModule"}


def require_places(folder: Path) -> None:
    """Look before the work that what a run leaves can be written.

    Raises:
        UserError: for a folder in its place.
    """
    for name in (SUMMARY, METRICS, "config.yaml"):
        if (folder / name).is_dir():
            raise UserError(f"{folder / name} is a folder, where the run has a file: move it away")


def to_go_on_from(cfg: DictConfig, config: dict[str, Any], folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint, which says what the run is, whatever else is in its folder.

    Raises:
        UserError: for a damaged one, one of another run, or one that has done more epochs already.
    """
    path, checkpoint = newest_checkpoint(folder / "checkpoints")
    if not checkpoint.keys() >= REQUIRED or not isinstance(checkpoint["config"], dict):
        raise UserError(f"checkpoint {path} is not one of this project's runs, so there is no run to continue")
    refuse_another(f"resume={folder}", current(checkpoint["config"]), config)
    reached, epochs = checkpoint["epoch"] + 1, cfg.trainer.max_epochs  # counted from 0 in the file
    if reached > epochs:
        raise UserError(f"epochs={epochs}: the run has come to epoch {reached} already; give at least as many")
    if cfg.test_on == "best" and checkpoint.get("callbacks", {}).get("Checkpoints", {}).get("best_epoch") is not None:
        load_checkpoint(folder / "checkpoints" / BEST)  # which may be tested in the end
    return path, checkpoint


def begin(folder: Path, config: dict[str, Any], overrides: list[str] | None, checkpoint: dict[str, Any]) -> None:
    """Write what a run is, and the rows of metrics.csv that belong to the checkpoint which it goes on from.

    Without one the run starts: what is left of another that was here goes to ``checkpoints/before_<n>``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not checkpoint:
        _put_aside(folder)
    if checkpoint.get("metrics"):
        restore_metrics(folder / METRICS, checkpoint["metrics"])
    atomic(folder / "config.yaml", lambda temporary: OmegaConf.save(OmegaConf.create(config), temporary))
    if overrides is not None:
        write_started(folder, overrides)


def _put_aside(folder: Path) -> None:
    checkpoints = folder / "checkpoints"
    left = [*checkpoints.glob("*.ckpt"), *(folder / name for name in (SUMMARY, METRICS) if (folder / name).exists())]
    if not begun(folder):
        left = []  # it came to nothing
    if not left:
        return
    n = 1 + sum(1 for _ in checkpoints.glob("before_*"))
    aside = checkpoints / f"before_{n}"
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)
    print(f"the run that was here before is in {aside}", file=sys.stderr)
