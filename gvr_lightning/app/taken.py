"""A run's folder is one run's at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gvr_lightning.config.started import STARTED
from gvr_lightning.distributed.place import broadcast
from gvr_lightning.errors import UserError
from gvr_lightning.files import locked


@contextmanager
def taken(folder: Path, first: bool = True) -> Iterator[None]:
    """The folder for this run alone; of processes that have met, the first takes it for all.

    Raises:
        UserError: if another run is at work in it.
    """
    with ExitStack() as stack:
        free = True
        if first:
            own = folder / STARTED.parent  # not the folder itself, which a download into it would wait for
            own.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(own, wait=False))
            except BlockingIOError:
                free = False
        if not broadcast(free):
            raise UserError(f"{folder}: another process is at work on this run; wait for its end, or stop it")
        yield
