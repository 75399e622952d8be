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
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from gvr_lightning.distributed.external import LOCALHOST, Place
from gvr_lightning.distributed.place import join
from gvr_lightning.distributed.starting import cores, lent, signals_wait, start_method
from gvr_lightning.distributed.watch import Failure, cause, noted, watch
from gvr_lightning.errors import STOPPING, Interrupted, TrainingError, UserError

BEAT = 1.0  # seconds between two signs of life


def launch(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    processes: int,
    backend: str,
    timeout: float = 600.0,
    loads: str | None = None,
) -> None:
    """Call ``work(*arguments)`` in as many processes, each at its :class:`Place`, and wait for their end.

    Args:
        work: an importable function.
        arguments: that can be pickled.
        processes: how many.
        backend: of torch.distributed, "gloo" or "nccl".
        timeout: seconds after which a process that shows no sign of life is ended, with the others.
        loads: a module that the work will load, in time for all of them.

    Raises:
        UserError, TrainingError, Interrupted: as one of them did; TrainingError also if one was killed.
    """
    if mp.get_start_method(allow_none=True) not in (None, *mp.get_all_start_methods()):
        mp.set_start_method("spawn", force=True)  # joblib's workers say "loky", which the children do not know
    context: Any = mp.get_context(start_method(backend))
    context.set_forkserver_preload([work.__module__, *([loads] if loads else [])])
    store = dist.TCPStore(LOCALHOST, 0, processes + 1, True, wait_for_workers=False)
    threads = str(max(1, cores() // processes))  # for torch in the processes, which share the cores
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    # by which torch is loaded, perhaps before a process knows more; and the packages that this one can import
    first = {"OMP_NUM_THREADS": environment["OMP_NUM_THREADS"], "PYTHONPATH": os.pathsep.join(sys.path)}
    workers, reports = [], []
    try:
        with signals_wait() as let_through, noted() as signals:
            for rank in range(processes):
                place = Place(rank, processes, rank, processes, LOCALHOST, store.port, serves=False)
                report, send = context.Pipe(duplex=False)
                given = (environment, place, backend, work, arguments, send, timeout)
                worker = context.Process(target=_work, args=given, name=f"process {rank}")
                with lent(first):
                    worker.start()
                send.close()
                workers.append(worker)
                reports.append(report)
            let_through()
            failures = watch(workers, reports, signals, timeout)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    if failures:
        raise cause(failures, processes)


def _work(
    environment: dict[str, str],
    place: Place,
    backend: str,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    send: Connection,
    timeout: float,
) -> None:
    """A process: join, work, report, leave."""
    os.setsid()
    os.environ.clear()  # where it was forked, that of an earlier launch
    os.environ.update(environment)
    with suppress(ValueError):  # OpenMP also takes lists
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
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
