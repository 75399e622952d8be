"""Curves of groups: each run put on a common grid, then the mean and its interval at every point."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gvr_lightning.report.groups import Group
from gvr_lightning.report.runs import Run
from gvr_lightning.report.statistics import quantile

POINTS = 200  # of a grid, at most
X_AXES = {"epoch": "epochs", "train/seconds": "seconds of training", "train/images": "images seen"}


@dataclass(frozen=True)
class Band:
    """A mean curve; ``low`` and ``high`` are its 95% interval over the seeds, None for one run."""

    label: str
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def bands(groups: Sequence[Group], x: str, y: str) -> list[Band]:
    """One band a group that logged ``y``; x and y are columns of metrics.csv."""
    found = []
    for group in groups:
        curves = [curve for run in group.runs.values() if len((curve := curve_of(run, x, y))[0])]
        if curves:
            found.append(_band(group.label, curves))
    return found


def curve_of(run: Run, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a run, the last of equal x; a row without x has that of the row before."""
    points: dict[float, float] = {}
    place = None
    for row in run.rows:
        place = row.get(x, place)
        if y in row and place is not None and np.isfinite(row[y]):
            points[place + 1 if x == "epoch" else place] = row[y]  # epochs count from 0 in the file
    order = sorted(points)
    return np.array(order), np.array([points[value] for value in order])


def _band(label: str, curves: list[tuple[np.ndarray, np.ndarray]]) -> Band:
    """Over the range that all runs have; there a straight line joins a run's points."""
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low > high:  # nothing in common: the runs' last points
        return Band(label, *(np.array([np.mean([curve[i][-1] for curve in curves])]) for i in (0, 1)))
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= low) & (grid <= high)]
    grid = grid if len(grid) <= POINTS else np.linspace(low, high, POINTS)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    mean, n = values.mean(0), len(curves)
    if n == 1:
        return Band(label, grid, mean)
    half = quantile(n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    return Band(label, grid, mean, mean - half, mean + half)
