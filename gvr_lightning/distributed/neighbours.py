"""Processes that torchrun or srun started watch each other: there is no parent of this program's that could.

One that is stopped, by a debugger or a machine that has run full, dies of nothing, and the others would wait for it in
silence. Each gives signs of life in the store where they met, and looks for those of the next.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from gvr_lightning.distributed.external import Place
from gvr_lightning.errors import TrainingError

BEAT = 1.0  # seconds between two signs of life
ENDED = b"ended"


class Neighbour:
    """What is known of the next process, as the store tells.

    Args:
        place: of this process.
        store: a connection of its own, which nobody else waits on.
        patience: seconds without a sign of life.
        clock: what tells the seconds.
    """

    def __init__(self, place: Place, store: Any, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.place, self.patience, self._store, self._clock = place, patience, store, clock
        self._heard = self._answered = clock()
        self._seen, self._count = b"", 0

    def exchange(self) -> bytes:
        """Give a sign and look for the other's; does not return while the store is silent."""
        self._count += 1
        self._store.set(f"alive/{self.place.rank}", str(self._count))
        name = f"alive/{(self.place.rank + 1) % self.place.processes}"
        seen: bytes = self._store.get(name) if self._store.check([name]) else b""
        self._answered = self._clock()
        if seen != self._seen:
            self._seen, self._heard = seen, self._answered
        return seen

    def leave(self) -> None:
        """Say that this process has come to its end, so that nobody waits for signs."""
        self._store.set(f"alive/{self.place.rank}", ENDED)

    def slept(self) -> None:
        """After a stop of its own: what it missed in the meantime counts for nothing."""
        self._heard = self._answered = self._clock()

    def lost(self) -> str:
        """Who shows no sign of life, the next process or the keeper of the store; empty while both do."""
        now, place = self._clock(), self.place
        if now - self._answered > self.patience:
            return f"process 0 of {place.processes}" if place.serves else f"the store at {place.address}:{place.port}"
        silent = self._seen != ENDED and now - self._heard > self.patience
        return f"process {(place.rank + 1) % place.processes} of {place.processes}" if silent else ""


@contextmanager
def neighbours(place: Place, patience: float, end: Callable[[TrainingError], None]) -> Iterator[None]:
    """While this lasts, the processes of a run watch each other.

    Args:
        place: of this process, which has met the others.
        patience: seconds after which one without a sign of life is given up.
        end: called, from a thread, with what is to be told; the process may be waiting for the lost one for ever.
    """
    limit = timedelta(seconds=patience)
    store = dist.TCPStore(place.address, place.port, place.processes, False, limit, wait_for_workers=False)
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    neighbour, over = Neighbour(place, dist.PrefixStore(f"life/{restarts}", store), patience), threading.Event()
    talk = threading.Thread(target=_talk, args=(neighbour, over), daemon=True)
    talk.start()
    threading.Thread(target=_look, args=(neighbour, over, end), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        talk.join(2 * BEAT)  # no longer, should the store be gone


def _talk(neighbour: Neighbour, over: threading.Event) -> None:
    try:
        while not over.wait(BEAT):
            neighbour.exchange()
        neighbour.leave()
    except (RuntimeError, OSError):
        return  # the store has ended, with the process that keeps it: its end is seen by others


def _look(neighbour: Neighbour, over: threading.Event, end: Callable[[TrainingError], None]) -> None:
    before = time.monotonic()
    while not over.wait(BEAT / 2):
        if time.monotonic() - before > 5 * BEAT:
            neighbour.slept()
        before = time.monotonic()
        if who := neighbour.lost():
            how = f"has shown no sign of life for {neighbour.patience:g} s (trainer.timeout), as if it had been stopped"
            end(TrainingError(f"{who} {how}"))
            return
