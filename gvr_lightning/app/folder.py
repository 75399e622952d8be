"""A run's folder: taken by one process at a time, and begun anew without losing what a run before has left there."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gvr_lightning.callbacks.checkpoints import LAST, PREVIOUS
from gvr_lightning.config.started import write_started
from gvr_lightning.distributed.place import broadcast
from gvr_lightning.errors import UserError
from gvr_lightning.files import atomic, locked
from gvr_lightning.recording.csv import METRICS, restore_metrics
from gvr_lightning.recording.summary import SUMMARY


@contextmanager
def taken(folder: Path, first: bool = True) -> Iterator[None]:
    """The folder for this run alone; of processes that have met, the first takes it for all.

    Raises:
        UserError: if another run is at work in it.
    """
    with ExitStack() as stack:
        free = True
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(folder, wait=False))
            except BlockingIOError:
                free = False
        if not broadcast(free):
            raise UserError(f"{folder}: another process is at work on this run; wait for its end, or stop it")
        yield


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
    if not any((checkpoints / name).exists() for name in (LAST, PREVIOUS)):
        left = []  # it came to nothing
    if not left:
        return
    n = 1 + sum(1 for _ in checkpoints.glob("before_*"))
    aside = checkpoints / f"before_{n}"
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)
    print(f"the run that was here before is in {aside}", file=sys.stderr)
