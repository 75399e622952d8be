"""Batches whose images are read in the background, a few before they are asked for."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from torch import Tensor

AHEAD = 3  # batches


class Reading(NamedTuple):
    """Sample numbers (B,) of a global batch, and this process's images of it, as soon as they are read."""

    numbers: Tensor
    images: "Future[Tensor]"


class ReadAhead:
    """Threads that read batch after batch; what they call may have threads of its own.

    Args:
        at_a_time: batches that are read side by side.
    """

    def __init__(self, at_a_time: int = 1) -> None:
        self._pool = ThreadPoolExecutor(at_a_time, thread_name_prefix="read-ahead")

    def through(self, batches: Iterable[Tensor], read: Callable[[Tensor], Tensor]) -> Iterator[Reading]:
        """Each batch once the reading of the next ones has been asked for, and no more of them than ``AHEAD``.

        Args:
            batches: the sample numbers of each.
            read: sample numbers of a global batch -> this process's images.
        """
        begun: deque[Reading] = deque()
        try:
            for index in batches:
                begun.append(Reading(index, self._pool.submit(read, index)))
                if len(begun) > AHEAD:
                    yield begun.popleft()
            while begun:
                yield begun.popleft()
        finally:
            for reading in begun:
                reading.images.cancel()
