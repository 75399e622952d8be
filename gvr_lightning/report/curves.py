"""Curves of groups: each run put on a common grid, the mean and its interval at every point, and figures of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gvr_lightning.report.figures import Figure, Look, panel, save, wrapped
from gvr_lightning.report.groups import Group
from gvr_lightning.report.metrics import EXPLAINED, Metric
from gvr_lightning.report.published import ACCURACY, SCORE, Published
from gvr_lightning.report.runs import Run
from gvr_lightning.report.statistics import quantile

X_AXES = {"epoch": "epochs", "train/seconds": "seconds of training", "train/images": "images seen"}
PROGRESS = {"classification": ("val/acc", "test/acc"), "ddpm": ("val/loss", "test/loss")}  # the first that was logged
BY_EPOCH = (
    *("is/mean", "fid", "train/penalty", "train/view_agreement"),
    *("train/acc_clean", "train/acc_noisy", "train/acc_noisy_true"),
)
ALWAYS_ZERO = "train/penalty"  # where there is none: not drawn

POINTS = 200  # of a grid, at most
PUBLISHED = ("#000000", "#8c510a", "#5e3c99", "#01665e", "#b2182b", "#7f7f7f")
PLOT, LINE, GAP = 3.0, 0.167, 0.07  # inches: all but the legend; a line of it, and what is between two entries
LEGEND = 26  # characters of a line of it
LONG = 10  # points of a curve whose start may leave the frame
MARKS = 6  # on a curve, shifted from method to method so that equal curves are still told apart


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
        curves = [curve for run in group.runs.values() if len((curve := _curve(run, x, y))[0])]
        if curves:
            found.append(_band(group.label, curves))
    return found


def draw_logged_curves(
    task: str,
    metric: Metric,
    groups: Sequence[Group],
    styles: dict[str, Look],
    published: Sequence[Published],
    folder: Path,
    prefix: str,
) -> list[Figure]:
    """Every curve that any of the groups has logged: the progress over each of `X_AXES`, and others by epoch."""
    found = []
    progress = _first_logged(groups, PROGRESS.get(task, (metric.name,)))
    for x in X_AXES if progress else ():
        beside = [
            p for p in published if x == "epoch" and p.metric == ACCURACY == f"test/{progress.rpartition('/')[2]}"
        ]
        curves = bands(groups, x, progress)
        if curves:
            file = folder / f"{prefix}_{_slug(progress)}_by_{_slug(x)}.png"
            found.append(draw_bands(curves, x, Metric(progress), styles, file, beside))
    for name in BY_EPOCH:
        beside = [p for p in published if p.metric == name == SCORE]
        curves = [band for band in bands(groups, "epoch", name) if _worth_drawing(band, name, bool(beside))]
        if curves:
            file = folder / f"{prefix}_{_slug(name)}_by_epoch.png"
            found.append(draw_bands(curves, "epoch", Metric(name), styles, file, beside))
    return found


def draw_bands(
    curves: Sequence[Band],
    x: str,
    metric: Metric,
    styles: dict[str, Look],
    file: Path,
    published: Sequence[Published] = (),
) -> Figure:
    """A metric over one of `X_AXES`; published curves dashed, without a band."""
    entries = [wrapped(band.label, LEGEND) for band in curves]
    entries += [wrapped(f"published, {curve.label}", LEGEND) for curve in published]
    with panel(PLOT + _legend_height(entries)) as (figure, axes):
        for band in curves:
            _draw_band(axes, band, metric, styles[band.label])
        for i, curve in enumerate(published):
            axes.plot(curve.epochs, metric.scale * np.array(curve.values), linestyle="--", linewidth=1.3,
                      color=PUBLISHED[i % len(PUBLISHED)], label=entries[len(curves) + i])  # fmt: skip
        _set_frame(axes, curves, published, metric)
        axes.set(xlabel=X_AXES[x], ylabel=metric.heading)
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, file, _caption(curves, x, metric, published))


def _curve(run: Run, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of a run, the last of equal x; a row without x has that of the row before."""
    points: dict[float, float] = {}
    at = None
    for row in run.rows:
        at = row.get(x, at)
        if y in row and at is not None and np.isfinite(row[y]):
            points[at + 1 if x == "epoch" else at] = row[y]  # epochs count from 0 in the file
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


def _first_logged(groups: Sequence[Group], names: Sequence[str]) -> str:
    """The first of some columns that any run logged, "" for none."""
    rows = [row for group in groups for run in group.runs.values() for row in run.rows]
    return next((name for name in names if any(name in row for row in rows)), "")


def _worth_drawing(band: Band, name: str, published: bool) -> bool:
    moves = len(band.x) > 1 or published
    return moves and not (name == ALWAYS_ZERO and not band.mean.any())


def _slug(name: str) -> str:
    return name.rpartition("/")[2] if name.startswith("train/") else name.replace("/", "_")


def _legend_height(entries: Sequence[str]) -> float:
    """Of a legend in two columns, in inches: that of the taller one."""
    half = (len(entries) + 1) // 2
    lines = max(sum(entry.count("\n") + 1 for entry in column) for column in (entries[:half], entries[half:]))
    return LINE * lines + GAP * half


def _draw_band(axes: Any, band: Band, metric: Metric, look: Look) -> None:
    mean = metric.scale * band.mean
    step = max(1, len(band.x) // MARKS)
    axes.plot(
        *(band.x, mean),
        color=look.colour,
        linewidth=3.5 if look.index == 0 else 1.8,  # the baseline can be seen under a curve that equals it
        marker=look.marker,
        markersize=5,
        markevery=(look.index % step, step),
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=wrapped(band.label, LEGEND),
    )
    if band.low is not None and band.high is not None:
        low = metric.scale * band.low
        low = np.where(mean > 0, np.maximum(low, 1e-3 * mean), low)  # of what is positive: a log scale lacks zero
        axes.fill_between(band.x, low, metric.scale * band.high, color=look.colour, alpha=0.15, linewidth=0)


def _set_frame(axes: Any, curves: Sequence[Band], published: Sequence[Published], metric: Metric) -> None:
    """Limits by the means: the band of two seeds alone may be a dozen times as wide as what there is to see."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    points = [(band.x, band.mean) for band in curves] + [(np.array(p.epochs), np.array(p.values)) for p in published]
    low = metric.scale * min(y.min() for _, y in points)
    high = metric.scale * max(_settled(x, y, metric).max() for x, y in points)
    if metric.name == "train/penalty" and low > 0 and high > 20 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.5)
    else:
        edge = 0.15 * (high - low) or abs(high) * 0.05 or 1.0
        axes.set_ylim(low - edge, high + edge)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _settled(x: np.ndarray, y: np.ndarray, metric: Metric) -> np.ndarray:
    """The values that the frame must hold: of long curves that fall, the first tenth may leave it."""
    late = x >= x[0] + (x[-1] - x[0]) / 10
    return y[late] if metric.direction < 0 and len(x) >= LONG else y


def _caption(curves: Sequence[Band], x: str, metric: Metric, published: Sequence[Published]) -> str:
    text = f"{metric.capitalized} over {X_AXES[x]}"
    if any(band.low is not None for band in curves):
        text += ": mean over the seeds, band: its 95% interval"
    parts = [f"{text}.", EXPLAINED.get(metric.name, ""), "Dashed: published, not measured here." if published else ""]
    return " ".join(part for part in parts if part)
