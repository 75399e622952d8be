"""Checkpoints: last.ckpt and best.ckpt, whole or not at all."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from gvr_lightning.errors import TrainingError, UserError


def atomic(path: Path, write: Any) -> None:
    """Call ``write(temporary)`` beside ``path``, flush it to the disk and rename: the old file stays until then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes in the target's own folder (a rename is atomic on one file system only) and reads plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a full disk or a kill leaves the one before.

        Raises:
            TrainingError: if it cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic(path, lambda temporary: torch.save(checkpoint, temporary))
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


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as plain containers and tensors, on the CPU.

    Raises:
        UserError: for a file that is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler met
        raise UserError(f"checkpoint {path} is damaged ({type(error).__name__}); use another one") from error


class Checkpoints(Checkpoint):
    """``last.ckpt`` at the end of every epoch, ``best.ckpt`` where validation was best.

    Args:
        folder: where to.
        monitor: the metric that decides what is best; without it (no validation) the last is the best.
        mode: "max" or "min".
    """

    def __init__(self, folder: Path, monitor: str, mode: str = "max") -> None:
        self.folder, self.monitor, self.sign = Path(folder), monitor, {"max": 1, "min": -1}[mode]
        self.best: float | None = None
        self.best_epoch: int | None = None

    @property
    def last_path(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The one with the best validation."""
        return self.folder / "best.ckpt"

    def state_dict(self) -> dict[str, Any]:
        """What was best so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs after the task's own hook, so the schedule has been stepped."""
        value = trainer.callback_metrics.get(self.monitor)
        better = value is None or self.best is None or self.sign * float(value) > self.sign * self.best
        if better:
            self.best, self.best_epoch = None if value is None else float(value), trainer.current_epoch
        trainer.save_checkpoint(self.last_path)
        if better and trainer.is_global_zero:
            atomic(self.best_path, self._link_last)

    def _link_last(self, temporary: Path) -> None:
        """One file under two names where the disk can: the next last.ckpt is another file."""
        try:
            os.link(self.last_path, temporary)
        except OSError:
            shutil.copyfile(self.last_path, temporary)
