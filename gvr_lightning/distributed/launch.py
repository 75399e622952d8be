"""The processes of one run on this machine: started, watched, ended together.

The parent only watches. That one of them died is known at once, whatever the others wait for; and nothing of a run is
left in the parent, where a sweep's next job starts afresh.
"""

import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import torch.distributed as dist

from gvr_lightning.distributed.external import LOCALHOST, Place
from gvr_lightning.distributed.place import join
from gvr_lightning.errors import STOPPING, Interrupted, TrainingError, UserError

GRACE = 10.0  # seconds that the others have to end by themselves once one has failed
STOP = 300.0  # seconds that all have to end after a signal: an update, its validation, a checkpoint
AT_ONCE = 5.0  # after a second one
LOADING = 60.0  # until they have loaded torch
BEAT = 1.0  # seconds between two signs of life


@dataclass
class Failure:
    """Why a process ended."""

    rank: int
    error: BaseException
    text: str = ""  # a traceback, where the error is none of ours


def launch(
    work: Callable[..., None], arguments: tuple[Any, ...], processes: int, backend: str, timeout: float = 600.0
) -> None:
    """Call ``work(*arguments)`` in as many processes, each at its :class:`Place`, and wait for their end.

    Args:
        work: an importable function.
        arguments: that can be pickled.
        processes: how many.
        backend: of torch.distributed, "gloo" or "nccl".
        timeout: seconds after which a process that shows no sign of life is ended, with the others.

    Raises:
        UserError, TrainingError, Interrupted: as one of them did; TrainingError also if one was killed.
    """
    if mp.get_start_method(allow_none=True) not in (None, *mp.get_all_start_methods()):
        mp.set_start_method("spawn", force=True)  # joblib's workers say "loky", which the children do not know
    context = mp.get_context("spawn")
    store = dist.TCPStore(LOCALHOST, 0, processes + 1, True, wait_for_workers=False)
    own_threads = "OMP_NUM_THREADS" in os.environ
    if not own_threads:  # for torch in the children, which share the cores
        os.environ["OMP_NUM_THREADS"] = str(max(1, _cores() // processes))
    workers, reports = [], []
    try:
        for rank in range(processes):
            place = Place(rank, processes, rank, processes, LOCALHOST, store.port, serves=False)
            report, send = context.Pipe(duplex=False)
            given = (place, backend, work, arguments, send, timeout)
            worker = context.Process(target=_work, args=given, name=f"process {rank}")
            worker.start()
            send.close()
            workers.append(worker)
            reports.append(report)
        failures = _watch(workers, reports, timeout)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        if not own_threads:
            del os.environ["OMP_NUM_THREADS"]
    if failures:
        raise _cause(failures, processes)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _watch(workers: list[Any], reports: list[Connection], timeout: float = 600.0) -> list[Failure]:
    """Wait for all; once one has failed the others have a little time to say what they know."""
    signals: list[int] = []
    handlers = _forward(workers, signals)
    failures: list[Failure] = []
    running, deadline = dict(enumerate(workers)), float("inf")
    heard = dict.fromkeys(running, time.monotonic() + LOADING)
    said: dict[int, Failure] = {}
    try:
        while running and time.monotonic() < deadline:
            wait([worker.sentinel for worker in running.values()], timeout=0.5)
            for rank in running:
                _listen(rank, reports[rank], heard, said)
            for rank, worker in [item for item in running.items() if not item[1].is_alive()]:
                del running[rank]
                failure = said.get(rank) or _failure(rank, worker.exitcode, reports[rank])
                if failure is not None:
                    failures.append(failure)
                    # an interruption ends all of them, each after its step
                    patience = 60.0 if isinstance(failure.error, Interrupted) else GRACE
                    deadline = min(deadline, time.monotonic() + patience)
            if signals:  # after the second they are ended, wherever they are
                deadline = min(deadline, time.monotonic() + (STOP if len(signals) == 1 else AT_ONCE))
            for rank in [rank for rank in running if time.monotonic() - heard[rank] > timeout]:
                how = f"has shown no sign of life for {timeout:g} s (trainer.timeout), as if it had been stopped"
                return [*failures, Failure(rank, ProcessLookupError(how))]
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
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


def _forward(workers: list[Any], signals: list[int]) -> dict[int, Any]:
    """Pass signals on: the processes have sessions of their own, so that each gets a Ctrl-C once."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def receive(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        for worker in workers:
            if worker.is_alive():
                os.kill(worker.pid, signum)

    return {signum: signal.signal(signum, receive) for signum in STOPPING}


def _failure(rank: int, exitcode: int, report: Connection) -> Failure | None:
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


def _cause(failures: list[Failure], processes: int) -> BaseException:
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


def _work(
    place: Place,
    backend: str,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    send: Connection,
    timeout: float,
) -> None:
    """A process: join, work, report, leave."""
    os.setsid()
    threading.Thread(target=_follow_parent, daemon=True).start()
    alone = threading.Lock()  # of two threads that send
    threading.Thread(target=_beat, args=(send, alone), daemon=True).start()
    status = 0
    try:
        join(place, backend, timeout)
        work(*arguments)
    except BaseException as error:  # also Ctrl-C, which is no Exception
        status = 1
        with alone:
            send.send(_portable(place.rank, error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # gloo's threads would wait for those who are gone


def _beat(send: Connection, alone: Any) -> None:
    """Signs of life, which a process that is stopped does not give."""
    while True:
        with alone, suppress(OSError):
            send.send(None)
        time.sleep(BEAT)


def _portable(rank: int, error: BaseException) -> Failure:
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted(signal.SIGINT)
    if isinstance(error, UserError | TrainingError | Interrupted):
        return Failure(rank, error)
    if isinstance(error, OSError):
        return Failure(rank, TrainingError(f"cannot read or write: {error}"))
    text = traceback.format_exc()[-20_000:]  # less than a pipe holds, with the first line of the message
    first = (str(error).splitlines() or [""])[0][:2000]
    return Failure(rank, RuntimeError(f"{type(error).__name__}: {first}"), text)


def _follow_parent() -> None:
    """Without the parent nobody would end this process: stop as if asked to."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
