"""Decisions that all processes take at the same step."""

import time
from collections.abc import Sequence

import torch

from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.place import largest

MOST_STEPS = 1000


class Agreement:
    """The processes' wishes, compared about once a second: at the same step everywhere, at no cost to speak of.

    Args:
        seconds: between two comparisons, about.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self._next = 0
        self._last: tuple[int, float] | None = None  # the step of the last comparison, and when

    def __call__(self, wishes: Sequence[float], step: int, now: bool = False) -> list[float]:
        """The largest of each wish over the processes; all zeros while it is not time.

        Args:
            wishes: numbers, 0 for none.
            step: the same on every process.
            now: whether this is a step at which all compare in any case.
        """
        if rank_and_size()[1] == 1:
            return list(wishes)
        if step < self._next and not now:
            return [0.0] * len(wishes)
        ahead = 1.0
        if self._last is not None:
            ahead = (step - self._last[0]) / max(time.monotonic() - self._last[1], 1e-9) * self.seconds
        *agreed, ahead = largest(torch.tensor([*wishes, min(max(ahead, 1), MOST_STEPS)], dtype=torch.float64)).tolist()
        self._next, self._last = step + int(ahead), (step, time.monotonic())
        return agreed
