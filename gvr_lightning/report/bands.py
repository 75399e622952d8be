"""Curves of groups: each run put on a common grid, the mean and its interval at every point."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gvr_lightning.report.groups import Group
from gvr_lightning.report.runs import Run
from gvr_lightning.report.statistics import quantile

POINTS = 200  # of a grid, at most
FEW = 5  # seeds, up to which each has a line of its own: the interval of three is wider than what there is to see

Curve = tuple[np.ndarray, np.ndarray]  # x in order, y


@dataclass(frozen=True)
class Band:
    """A mean curve; ``low`` and ``high`` are its 95% interval over the seeds, None for one run.

    Where the seeds are few, ``seeds`` are their curves, which are drawn instead of the interval.
    """

    label: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    seeds: Sequence[Curve] = ()
    measured: np.ndarray = field(default_factory=lambda: np.array(True))  # at which points every run was

    def __post_init__(self) -> None:
        """One word for all points is one for each."""
        object.__setattr__(self, "measured", np.broadcast_to(self.measured, self.x.shape))

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The interval, where it is drawn."""
        return None if self.low is None or self.high is None or self.seeds else (self.low, self.high)


def bands(groups: Sequence[Group], x: str, y: str) -> list[Band]:
    """One band a group that logged ``y``; x and y are columns of metrics.csv."""
    found = []
    for group in groups:
        curves = [curve for run in group.runs.values() if len((curve := _curve(run, x, y))[0])]
        if curves:
            found.append(_band(group.label, curves))
    return found


def _curve(run: Run, x: str, y: str) -> Curve:
    """The points of a run, the last of equal x; a row without x has that of the row before."""
    points: dict[float, float] = {}
    at = None
    for row in run.rows:
        at = row.get(x, at)
        if y in row and at is not None and np.isfinite(row[y]):
            points[at + 1 if x == "epoch" else at] = row[y]  # epochs count from 0 in the file
    order = sorted(points)
    return np.array(order), np.array([points[value] for value in order])


def _band(label: str, curves: list[Curve]) -> Band:
    """Over the range that all runs have; there a straight line joins a run's points."""
    n = len(curves)
    seeds = curves if 1 < n <= FEW else []
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low > high:  # nothing in common: the runs' last points
        x, mean = (np.array([np.mean([curve[i][-1] for curve in curves])]) for i in (0, 1))
        return Band(label, x, mean, seeds=seeds, measured=np.array(False))
    grid = _thinned(np.unique(np.concatenate([x for x, _ in curves])), low, high)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    measured = np.all([np.isin(grid, x) for x, _ in curves], axis=0)
    mean = values.mean(0)
    if n == 1:
        return Band(label, grid, mean)
    half = quantile(n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    return Band(label, grid, mean, mean - half, mean + half, seeds, measured)


def _thinned(grid: np.ndarray, low: float, high: float) -> np.ndarray:
    """Its points within a range; of more than enough, evenly chosen ones."""
    grid = grid[(grid >= low) & (grid <= high)]
    return grid if len(grid) <= POINTS else grid[np.linspace(0, len(grid) - 1, POINTS).round().astype(int)]
