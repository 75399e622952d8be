"""Ctrl-C, SIGTERM, and SIGUSR1, by which SLURM warns: finish the update, save, leave."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer

from gvr_lightning.callbacks.checkpoints import Checkpoints
from gvr_lightning.distributed.agreement import Agreement
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.errors import STOPPING, Interrupted


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Signals raise :class:`Interrupted` at once: while a run is built there is nothing to save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    before = {signum: signal.signal(signum, receive) for signum in STOPPING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Interruption(Callback):
    """Turns the first signal into a checkpoint after the update (or the epoch's validation) that is under way.

    A second signal stops at once. Outside of training a signal stops at once too: then the last checkpoint holds all.
    While the run leaves its summary, the first one changes nothing.
    Of several processes it is enough that one gets the signal; all stop after the same update.

    Args:
        checkpoints: what saves.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints, self._agreement = checkpoints, Agreement()
        checkpoints.wanted = lambda trainer: bool(self._asked(trainer, now=True))
        self.signum: int | None = None
        self.training = self.leaving = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.getsignal(s) for s in STOPPING}
            self._install()
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _install(self) -> None:
        for signum in self._before:
            signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.leaving and self.signum is None:
            self.signum = signum
            return
        if self.signum is not None or not self.training:
            raise Interrupted(signum)
        self.signum = signum
        if rank_and_size()[0] == 0:
            print("stopping after this step (again to stop at once) ...", file=sys.stderr)

    def _asked(self, trainer: Trainer, now: bool) -> int:
        """The signal that any process got, 0 for none."""
        return int(self._agreement([self.signum or 0], trainer.global_step, now)[0])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a signal waits for a place where the state is whole.

        A trainer that was not told to leave signals alone has put its own SIGTERM handler before this one, which would
        stop before the epoch's end is saved.
        """
        self._install()
        self.training = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Such a place, except before the epoch's validation, which belongs to the last batch."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if signum := self._asked(trainer, now=False):
            self.checkpoints.save(trainer)
            self._leave(signum)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch before has been saved; if not, the signal came after that was decided, and waits for an update."""
        signum = self._asked(trainer, now=True)
        if signum and self.checkpoints.saved_step == trainer.global_step:
            self._leave(signum)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All is saved."""
        self.training = False
        if signum := self._asked(trainer, now=True):
            self._leave(signum)

    def _leave(self, signum: int) -> NoReturn:
        """Once all is written."""
        self.checkpoints.wait()
        raise Interrupted(signum)
