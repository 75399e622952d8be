"""Processes that have met, and stay for many tests: starting them takes longer than most of what they do."""

import itertools
import multiprocessing as mp
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch.distributed as dist

from gvr_lightning.distributed.external import LOCALHOST, Place
from gvr_lightning.distributed.place import join
from gvr_lightning.distributed.starting import signals_wait
from gvr_lightning.errors import STOPPING

# by a process that has loaded torch and Lightning once, where there is such a thing
START = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
LONGEST = 300.0  # seconds that a call may take, its imports in a busy machine among them


class Pool:
    """Some processes with a gloo group.

    Args:
        processes: how many.
        machines: that they are told to be on.
        longest: seconds that a call may take.
        store: where they meet; None for one of their own.
    """

    def __init__(
        self, processes: int, machines: int = 1, longest: float = LONGEST, store: dist.TCPStore | None = None
    ) -> None:
        context, here = mp.get_context(START), processes // machines
        if START == "forkserver":
            context.set_forkserver_preload(["gvr_lightning.app.run"])
        self.store = store or dist.TCPStore(LOCALHOST, 0, processes + 1, True, wait_for_workers=False)
        self.longest, self.ends, self.workers = longest, [], []
        self._numbers = itertools.count()
        for rank in range(processes):
            ours, theirs = context.Pipe()
            place = Place(rank, processes, rank % here, here, LOCALHOST, self.store.port, serves=False)
            worker = context.Process(target=_serve, args=(place, theirs, dict(os.environ)), daemon=True)
            with signals_wait():  # as when a run starts its processes, which are forked from the same one
                worker.start()
            theirs.close()  # the end of a process is then seen here
            self.ends.append(ours)
            self.workers.append(worker)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What an importable function returns in each process."""
        number, deadline = next(self._numbers), time.monotonic() + self.longest
        for end in self.ends:
            end.send((number, function, arguments))
        answers = [self._answer(rank, number, deadline) for rank in range(len(self.ends))]
        for rank, (_result, failure) in enumerate(answers):
            assert failure is None, f"process {rank}: {failure}"
        return [result for result, _ in answers]

    def _answer(self, rank: int, number: int, deadline: float) -> tuple[Any, str | None]:
        """That to this call: one that came too late for an earlier call is not what this call is told."""
        while True:
            assert self.ends[rank].poll(max(0.0, deadline - time.monotonic())), f"process {rank} does not answer"
            try:
                of, result, failure = self.ends[rank].recv()
            except EOFError:
                raise AssertionError(f"process {rank} has ended") from None
            if of == number:
                return result, failure

    def close(self) -> None:
        """End them."""
        for worker in self.workers:
            worker.kill()
            worker.join()


def _serve(place: Place, end: Connection, environment: dict[str, str]) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    os.environ.clear()  # that of the process which this one was forked from
    os.environ.update(environment | {"OMP_NUM_THREADS": "1"})
    mp.current_process().daemon = False  # such a process may have none of its own
    join(place, "gloo")
    while True:
        number, function, arguments = end.recv()
        try:
            end.send((number, function(*arguments), None))
        except BaseException:
            end.send((number, None, traceback.format_exc()))
