"""What a run's checkpoints are called. Loads neither torch nor Lightning."""

from pathlib import Path

LAST, PREVIOUS, BEST, DAMAGED = "last.ckpt", "previous.ckpt", "best.ckpt", "damaged.ckpt"


def begun(folder: Path) -> bool:
    """Whether a run's folder has a checkpoint to go on from; the last may have been put aside a moment ago."""
    return any((folder / "checkpoints" / name).exists() for name in (LAST, PREVIOUS))
