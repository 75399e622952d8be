"""Files that are whole or not there, and checkpoints read as plain data."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gvr_lightning.errors import UserError


def atomic(path: Path, write: Callable[[Path], Any], ready: Callable[[], Any] | None = None) -> None:
    """Call ``write(temporary)`` beside ``path``, flush it to the disk, call ``ready`` and rename.

    The old file stays until then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if ready is not None:
            ready()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as plain containers and tensors, on the CPU.

    Raises:
        UserError: for a file that is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # against the checksums: torch does not look at them
        if damaged is not None:
            raise ValueError(damaged)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint
    except Exception as error:  # torch raises whatever its unpickler met
        raise UserError(f"checkpoint {path} is damaged ({type(error).__name__}); use another one") from error
