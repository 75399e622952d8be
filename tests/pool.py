"""Processes that have met, and stay for many tests: starting them takes longer than most of what they do."""

import multiprocessing as mp
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch.distributed as dist

from gvr_lightning.distributed.external import LOCALHOST, Place
from gvr_lightning.distributed.place import join

LONGEST = 120  # seconds that a call may take


class Pool:
    """Some processes with a gloo group."""

    def __init__(self, processes: int) -> None:
        context = mp.get_context("spawn")
        self.store = dist.TCPStore(LOCALHOST, 0, processes + 1, True, wait_for_workers=False)
        self.ends, self.workers = [], []
        for rank in range(processes):
            ours, theirs = context.Pipe()
            place = Place(rank, processes, rank, processes, LOCALHOST, self.store.port, serves=False)
            worker = context.Process(target=_serve, args=(place, theirs), daemon=True)
            worker.start()
            self.ends.append(ours)
            self.workers.append(worker)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What an importable function returns in each process."""
        for end in self.ends:
            end.send((function, arguments))
        answers = []
        for rank, end in enumerate(self.ends):
            assert end.poll(LONGEST), f"process {rank} does not answer"
            answers.append(end.recv())
        for rank, (_result, failure) in enumerate(answers):
            assert failure is None, f"process {rank}: {failure}"
        return [result for result, _ in answers]

    def close(self) -> None:
        """End them."""
        for worker in self.workers:
            worker.kill()
            worker.join()


def _serve(place: Place, end: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    join(place, "gloo")
    while True:
        function, arguments = end.recv()
        try:
            end.send((function(*arguments), None))
        except BaseException:
            end.send((None, traceback.format_exc()))
