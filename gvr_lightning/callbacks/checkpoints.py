"""Checkpoints: last.ckpt, the one before it, and best.ckpt, each whole or not at all."""

import errno
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from gvr_lightning.callbacks.optimizer_modes import weights_to_use
from gvr_lightning.checkpoint import load_checkpoint
from gvr_lightning.distributed.agreement import Agreement
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.errors import TrainingError, UserError
from gvr_lightning.files import atomic

LAST, PREVIOUS, BEST, DAMAGED = "last.ckpt", "previous.ckpt", "best.ckpt", "damaged.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes in the target's own folder (a rename is atomic on one file system only) and reads plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a full disk or a kill leaves the one before, which else becomes ``previous.ckpt``.

        Raises:
            TrainingError: if it cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic(path, lambda temporary: torch.save(checkpoint, temporary), lambda: _keep_previous(path))
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            full = shutil.disk_usage(path.parent).free < 1 << 20 or getattr(error, "errno", None) == errno.ENOSPC
            reason = "the disk is full" if full else str(error).splitlines()[0]
            kept = (
                f"; the one before is untouched: make room, then resume={path.parent.parent}" if path.exists() else ""
            )
            raise TrainingError(f"cannot write checkpoint {path}: {reason}{kept}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, to the CPU.

        Raises:
            UserError: for a damaged file.
        """
        return load_checkpoint(Path(path))


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of a folder; if that is damaged, which is said, the one before.

    Raises:
        UserError: if neither can be read.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if not last.exists() and previous.exists():  # put aside by another process, or a moment ago
        return previous, load_checkpoint(previous)
    try:
        return last, load_checkpoint(last)
    except UserError as error:
        if not previous.exists():
            raise
        found = load_checkpoint(previous)
        if rank_and_size()[0] == 0:
            print(f"{error}: going on from the one before, {previous}", file=sys.stderr)
            last.replace(folder / DAMAGED)  # or it would become the one before
        return previous, found


class Checkpoints(Checkpoint):
    """``last.ckpt`` at the end of every epoch and every so often within, ``best.ckpt`` where validation was best.

    Args:
        folder: where to.
        monitor: the metric that decides what is best; without it (no validation) the last is the best.
        mode: "max" or "min".
        every_n_steps: also after so many updates, None for not.
        every_n_minutes: also when the last one is so old, None for not.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        mode: str = "max",
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
    ) -> None:
        self.folder, self.monitor, self.sign = Path(folder), monitor, {"max": 1, "min": -1}[mode]
        self.every_n_steps = every_n_steps
        self.seconds = every_n_minutes * 60 if every_n_minutes is not None else float("inf")
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._agreement, self._saved = Agreement(), time.monotonic()

    @property
    def last_path(self) -> Path:
        """The newest checkpoint."""
        return self.folder / LAST

    @property
    def best_path(self) -> Path:
        """The one with the best validation."""
        return self.folder / BEST

    def state_dict(self) -> dict[str, Any]:
        """What was best so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts."""
        self._saved = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save where it is time; not before an epoch's validation, as its end is saved anyway."""
        old = time.monotonic() - self._saved > self.seconds
        (agreed,) = self._agreement([float(old)], trainer.global_step)
        counted = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if (counted or agreed) and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs after the task's own hook, so the schedule has been stepped."""
        value = trainer.callback_metrics.get(self.monitor)
        better = self.best is None  # also while there is no validation; not after an epoch that has none
        if value is not None and not better:
            best = self.best or 0.0
            better = math.isnan(best) or self.sign * float(value) > self.sign * best  # of NaN whatever comes is
        if better:
            self.best, self.best_epoch = None if value is None else float(value), trainer.current_epoch
        self.save(trainer)
        if better and trainer.is_global_zero:
            atomic(self.best_path, lambda temporary: _second_name(self.last_path, temporary))

    def save(self, trainer: Trainer) -> None:
        """Write the last checkpoint; every process has to ask."""
        with weights_to_use(trainer):
            trainer.save_checkpoint(self.last_path)
        self._saved = time.monotonic()


def _keep_previous(path: Path) -> None:
    if path.exists():
        atomic(path.with_name(PREVIOUS), lambda temporary: _second_name(path, temporary))


def _second_name(path: Path, other: Path) -> None:
    """One file under two names where the disk can: what takes its first name is another file."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
