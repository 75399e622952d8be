"""How a process of a run is started: by which method, with which environment and signals."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from gvr_lightning.errors import STOPPING


@contextmanager
def signals_wait() -> Iterator[Callable[[], None]]:
    """What starts here gets no signal until it says so: half loaded it would know no better than a traceback.

    Nor does this process, until it calls what it is given: then it has somebody to pass signals on to.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield lambda: None
        return
    resource_tracker.ensure_running()  # which would let signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)

    def let_through() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        yield let_through
    finally:
        let_through()


@contextmanager
def lent(variables: dict[str, str]) -> Iterator[None]:
    """What starts here has these; then they are again what they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start_method(backend: str) -> str:
    """How: forked from a process that has loaded torch once for all of them, and for a sweep's later jobs.

    Not where they compute on GPUs, whose driver must not have been spoken to before a fork, nor on macOS, whose own
    libraries do not survive one.
    """
    return "forkserver" if backend == "gloo" and sys.platform == "linux" else "spawn"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
