"""An epoch's row of metrics.csv, as it grows: the task, the clock and the generation of images each add to it."""

from collections.abc import Mapping
from typing import Any


class EpochRow:
    """The figures of an epoch, by their names in metrics.csv."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.last: dict[str, Any] = {}  # those of the epoch before

    def add(self, values: Mapping[str, Any]) -> None:
        """Further figures of this epoch."""
        self.values |= values

    def end(self) -> dict[str, Any]:
        """The whole row; the next epoch begins."""
        self.last, self.values = self.values, {}
        return self.last


def epoch_row(task: Any) -> EpochRow:
    """The row of a task that Lightning hands to a callback."""
    found: EpochRow = task.epoch_row
    return found
