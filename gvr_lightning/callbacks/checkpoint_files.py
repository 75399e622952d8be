"""The files of checkpoints: last.ckpt, the one before it, and best.ckpt, each whole or not at all."""

import errno
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from gvr_lightning.callbacks.beside import Beside, held
from gvr_lightning.checkpoint import load_checkpoint
from gvr_lightning.checkpoint_names import DAMAGED, LAST, PREVIOUS
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.errors import TrainingError, UserError
from gvr_lightning.files import atomic


class Writing(NamedTuple):
    """How a checkpoint is written: the path that it has as the best one, too, and who writes it; None: the caller."""

    best: Path | None = None
    beside: Beside | None = None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes in the target's own folder (a rename is atomic on one file system only) and reads plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Writing | None = None) -> None:
        """Write a checkpoint; a full disk or a kill leaves the one before, which else becomes ``previous.ckpt``.

        Raises:
            TrainingError: if it, or the one before, cannot be written.
        """
        best, beside = storage_options or Writing()
        if beside is None:
            _write(checkpoint, Path(path), best)
        else:
            beside.start(partial(_write, held(checkpoint), Path(path), best))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, to the CPU.

        Raises:
            UserError: for a damaged file.
        """
        return load_checkpoint(Path(path))


def _write(checkpoint: dict[str, Any], path: Path, best: Path | None) -> None:
    def ready(temporary: Path) -> None:
        """The last one's place comes last: if this is as far as it comes, the epoch is done again, to the same end."""
        _keep_previous(path)
        if best is not None:
            atomic(best, partial(_second_name, temporary))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic(path, lambda temporary: torch.save(checkpoint, temporary), ready)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        full = shutil.disk_usage(path.parent).free < 1 << 20 or getattr(error, "errno", None) == errno.ENOSPC
        reason = "the disk is full" if full else str(error).splitlines()[0]
        kept = f"; the one before is untouched: make room, then resume={path.parent.parent}" if path.exists() else ""
        raise TrainingError(f"cannot write checkpoint {path}: {reason}{kept}") from error


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


def _keep_previous(path: Path) -> None:
    if path.exists():
        atomic(path.with_name(PREVIOUS), lambda temporary: _second_name(path, temporary))


def _second_name(path: Path, other: Path) -> None:
    """One file under two names where the disk can: what takes its first name is another file."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
