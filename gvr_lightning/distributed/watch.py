"""The parent of a run's processes: hears of their end, passes signals on, and finds out why it went wrong.

It only watches. That one of them died is known at once, whatever the others wait for.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from gvr_lightning.errors import STOPPING, Interrupted, TrainingError, UserError

GRACE = 10.0  # seconds that the others have to end by themselves once one has failed
STOP = 300.0  # seconds that all have to end after a signal: an update, its validation, a checkpoint
AT_ONCE = 5.0  # after a second one
LOADING = 60.0  # until they have loaded torch


@dataclass
class Failure:
    """Why a process ended."""

    rank: int
    error: BaseException
    text: str = ""  # a traceback, where the error is none of ours


def watch(workers: list[Any], reports: list[Connection], signals: list[int], timeout: float = 600.0) -> list[Failure]:
    """Wait for all; once one has failed the others have a little time to say what they know.

    Signals are passed on: the processes have sessions of their own, so that each gets a Ctrl-C once.

    Args:
        workers: the processes.
        reports: what each sends.
        signals: :func:`noted`, those among them that come meanwhile.
        timeout: seconds after which one that shows no sign of life is told.
    """
    failures: list[Failure] = []
    running, deadline = dict(enumerate(workers)), float("inf")
    heard = dict.fromkeys(running, time.monotonic() + LOADING)
    said: dict[int, Failure] = {}
    passed_on = 0
    while running and time.monotonic() < deadline:
        wait([worker.sentinel for worker in running.values()], timeout=0.2)
        for rank in running:
            _listen(rank, reports[rank], heard, said)
        for rank, worker in [item for item in running.items() if not item[1].is_alive()]:
            del running[rank]
            failure = said.get(rank) or failure_of(rank, worker.exitcode, reports[rank])
            if failure is not None:
                failures.append(failure)
                # an interruption ends all of them, each after its step
                patience = 60.0 if isinstance(failure.error, Interrupted) else GRACE
                deadline = min(deadline, time.monotonic() + patience)
        for signum in signals[passed_on:]:
            passed_on += 1
            for worker in running.values():
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(worker.pid, signum)
        if signals:  # after the second they are ended, wherever they are
            deadline = min(deadline, time.monotonic() + (STOP if len(signals) == 1 else AT_ONCE))
        for rank in [rank for rank in running if time.monotonic() - heard[rank] > timeout]:
            how = f"has shown no sign of life for {timeout:g} s (trainer.timeout), as if it had been stopped"
            return [*failures, Failure(rank, ProcessLookupError(how))]
    if running and signals and not failures:  # they were asked and did not end: the last checkpoint is what is left
        failures.append(Failure(min(running), Interrupted(signals[-1])))
    return failures


def _listen(rank: int, report: Connection, heard: dict[int, float], said: dict[int, Failure]) -> None:
    """Take what a process has sent: signs of life, and at its end perhaps why."""
    while rank not in said:
        try:
            if not report.poll():
                return
            message = report.recv()
        except (EOFError, OSError):
            return
        heard[rank] = max(heard[rank], time.monotonic())
        if message is not None:
            said[rank] = message


@contextmanager
def noted() -> Iterator[list[int]]:
    """The signals that come while this lasts, for :func:`watch` to pass on; in another thread than the first, none."""
    signals: list[int] = []

    def receive(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)

    here = threading.current_thread() is threading.main_thread()
    handlers = {signum: signal.signal(signum, receive) for signum in STOPPING if here}
    try:
        yield signals
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def failure_of(rank: int, exitcode: int, report: Connection) -> Failure | None:
    said: dict[int, Failure] = {}
    _listen(rank, report, {rank: 0.0}, said)
    if rank in said:
        return said[rank]
    if exitcode == 0:
        return None
    if -exitcode in STOPPING:  # before it could catch them
        return Failure(rank, Interrupted(-exitcode))
    how = f"was killed ({signal.Signals(-exitcode).name})" if exitcode < 0 else f"ended with status {exitcode}"
    hint = ": out of memory, perhaps" if exitcode == -signal.SIGKILL else ""
    return Failure(rank, ProcessLookupError(how + hint))


def cause(failures: list[Failure], processes: int) -> BaseException:
    """What to tell: a mistake rather than a death, a death rather than the errors of those who waited for the dead."""
    kinds = (UserError, TrainingError, ProcessLookupError, Exception, Interrupted)
    first = min(failures, key=lambda f: next(i for i, kind in enumerate(kinds) if isinstance(f.error, kind)))
    if isinstance(first.error, UserError | TrainingError | Interrupted):
        return first.error
    who = f"process {first.rank} of {processes}"
    if isinstance(first.error, ProcessLookupError):
        return TrainingError(f"{who} {first.error}; the others were ended")
    print(first.text, file=sys.stderr)
    return TrainingError(f"{who} failed: {first.error}")
