"""Interleaved timing: what is compared runs in turn, so that a noisy machine disturbs all alike."""

import multiprocessing
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection

import torch

from gvr_lightning.app.memory import keep_memory


def interleave(
    jobs: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every repetition of every job, the jobs taking turns, each round in another order."""
    order = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(warmup + repeats):
        for name in order.sample(list(jobs), len(jobs)):
            start = clock()
            jobs[name]()
            if repeat >= warmup:
                seconds[name].append(clock() - start)
    return seconds


Make = Callable[..., Callable[[], object]]


class Elsewhere:
    """A job in a process of its own, as a command has one.

    Args:
        make: a function of a module that makes the job; it and its arguments are pickled.
        arguments: of it.
        keeps: whether the process keeps what is freed, as this project's commands do.
        threads: that compute in it.
    """

    def __init__(self, make: Make, *arguments: object, keeps: bool, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.here, there = context.Pipe()
        context.Process(target=_work, args=(there, make, arguments, keeps, threads), daemon=True).start()
        there.close()

    def __call__(self) -> None:
        """Do it there, once."""
        self.here.send(None)
        self.here.recv()


def _work(here: Connection, make: Make, arguments: tuple[object, ...], keeps: bool, threads: int) -> None:
    if keeps:
        keep_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    job = make(*arguments)
    with suppress(EOFError):  # nobody asks any more
        while True:
            here.recv()
            job()
            here.send(None)


def report(seconds: dict[str, list[float]], against: dict[str, str], unit: str = "s", scale: float = 1.0) -> None:
    """Median and quartiles of each job, and the median of its ratios, round by round, to another job."""
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    print(f"{'':24}{'median ' + unit:>12}{'quartiles':>24}{'n':>5}   ratio (quartiles)")
    for name, times in seconds.items():
        low, middle, high = _quartiles([t * scale for t in times])
        line = f"{name:24}{middle:12.4f}{f'{low:.4f} .. {high:.4f}':>24}{len(times):5}"
        if name in against:
            ratios = [a / b for a, b in zip(times, seconds[against[name]], strict=True)]
            low, middle, high = _quartiles(ratios)
            line += f"   {middle:.3f} x {against[name]} ({low:.3f} .. {high:.3f})"
        print(line)


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
