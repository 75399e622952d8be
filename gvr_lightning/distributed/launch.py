"""The processes of one run on this machine: started, watched, ended together.

Nothing of a run is left in the parent, where a sweep's next job starts afresh.
"""

import multiprocessing as mp
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import torch.distributed as dist

from gvr_lightning.distributed.external import LOCALHOST, Place
from gvr_lightning.distributed.place import join
from gvr_lightning.distributed.watch import Failure, cause, watch
from gvr_lightning.errors import STOPPING, Interrupted, TrainingError, UserError

BEAT = 1.0  # seconds between two signs of life


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
            with _signals_wait():
                worker.start()
            send.close()
            workers.append(worker)
            reports.append(report)
        failures = watch(workers, reports, timeout)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
        if not own_threads:
            del os.environ["OMP_NUM_THREADS"]
    if failures:
        raise cause(failures, processes)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """What starts here gets no signal until it says so: half loaded it would know no better than a traceback."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
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
