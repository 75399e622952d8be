"""Figures of curves: means with every seed's own line, or with an interval where there are many."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gvr_lightning.report.bands import Band, Curve, bands
from gvr_lightning.report.figures import Figure, Look, panel, save, wrapped
from gvr_lightning.report.groups import Group
from gvr_lightning.report.metrics import EXPLAINED, Metric
from gvr_lightning.report.published import ACCURACY, Published

X_AXES = {"epoch": "epochs", "train/seconds": "seconds of training", "train/images": "images seen"}
PROGRESS = {"classification": ("val/acc", "test/acc"), "ddpm": ("val/loss", "test/loss")}  # the first that was logged
BY_EPOCH = (
    *("is/mean", "fid", "train/penalty", "train/view_agreement"),
    *("train/acc_clean", "train/acc_noisy", "train/acc_noisy_true", "train/total", "test/loss"),
)
BESIDE = ("train/total", "test/loss")  # drawn where there are published ones alone
ALWAYS_ZERO = "train/penalty"  # where there is none: not drawn

PUBLISHED = ("#000000", "#8c510a", "#5e3c99", "#01665e", "#b2182b", "#7f7f7f")
PLOT, LINE, GAP = 3.0, 0.167, 0.07  # inches: all but the legend; a line of it, and what is between two entries
LEGEND = 26  # characters of a line of it
INK = 2.0  # of the seeds' lines of all methods together: the more there are, the fainter
EDGE = 0.05  # of the frame, beyond what is drawn, as a share of it
LONG = 10  # points of a curve whose start may leave the frame
MARKS = 6  # on a curve, shifted from method to method so that equal curves are still told apart


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
    tested = progress != ACCURACY and _by_epoch(groups, ACCURACY)
    for x in X_AXES if progress else ():
        beside = [
            p for p in published if x == "epoch" and p.metric == ACCURACY == f"test/{progress.rpartition('/')[2]}"
        ]
        beside = [] if tested else beside  # they are beside the test accuracies
        curves = bands(groups, x, progress)
        if curves:
            file = folder / f"{prefix}_{_slug(progress)}_by_{_slug(x)}.png"
            found.append(draw_bands(curves, x, Metric(progress), styles, file, beside))
    for name in (ACCURACY, *BY_EPOCH) if tested else BY_EPOCH:
        beside = [p for p in published if p.metric == name]
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
            _draw_band(axes, band, metric, styles[band.label], min(0.5, INK / len(curves)))
        for i, curve in enumerate(published):
            axes.plot(curve.epochs, metric.scale * np.array(curve.values), linestyle="--", linewidth=1.3,
                      color=PUBLISHED[i % len(PUBLISHED)], label=entries[len(curves) + i])  # fmt: skip
        _set_frame(axes, _drawn(curves, published, metric), metric)
        axes.set(xlabel=X_AXES[x], ylabel=metric.heading)
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, file, _caption(curves, x, metric, published))


def _first_logged(groups: Sequence[Group], names: Sequence[str]) -> str:
    """The first of some columns that any run logged, "" for none."""
    rows = [row for group in groups for run in group.runs.values() for row in run.rows]
    return next((name for name in names if any(name in row for row in rows)), "")


def _by_epoch(groups: Sequence[Group], name: str) -> bool:
    """Whether any run has a figure after several epochs."""
    runs = [run for group in groups for run in group.runs.values()]
    return any(len({row["epoch"] for row in run.rows if name in row and "epoch" in row}) > 1 for run in runs)


def _worth_drawing(band: Band, name: str, published: bool) -> bool:
    moves = len(band.x) > 1 or published
    return moves and (published or name not in BESIDE) and not (name == ALWAYS_ZERO and not band.mean.any())


def _slug(name: str) -> str:
    return name.rpartition("/")[2] if name.startswith("train/") else name.replace("/", "_")


def _legend_height(entries: Sequence[str]) -> float:
    """Of a legend in two columns, in inches: that of the taller one."""
    half = (len(entries) + 1) // 2
    lines = max(sum(entry.count("\n") + 1 for entry in column) for column in (entries[:half], entries[half:]))
    return LINE * lines + GAP * half


def _draw_band(axes: Any, band: Band, metric: Metric, look: Look, faint: float) -> None:
    for x, y in band.seeds:
        axes.plot(x, metric.scale * y, color=look.colour, linewidth=0.8, alpha=faint)
    mean, marked = metric.scale * band.mean, np.flatnonzero(band.measured)
    step = max(1, len(marked) // MARKS)
    axes.plot(
        *(band.x, mean),
        color=look.colour,
        linewidth=2.8 if look.index == 0 else 1.8,  # the baseline can be seen under a curve that equals it
        marker=look.marker if len(marked) else None,
        markersize=5,
        markevery=list(map(int, marked[look.index % step :: step])),
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=wrapped(band.label, LEGEND),
    )
    for low, high in _edges(band, metric):
        axes.fill_between(band.x, low, high, color=look.colour, alpha=0.15, linewidth=0)


def _edges(band: Band, metric: Metric) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the interval, if it is drawn; of what is positive at least 0.001 of the mean: a log scale lacks zero."""
    if band.edges is None:
        return []
    mean, low, high = (metric.scale * y for y in (band.mean, *band.edges))
    return [(np.where(mean > 0, np.maximum(low, 1e-3 * mean), low), high)]


def _drawn(curves: Sequence[Band], published: Sequence[Published], metric: Metric) -> list[Curve]:
    """Every line and edge of a figure, in its own units."""
    found = [(x, metric.scale * y) for band in curves for x, y in [(band.x, band.mean), *band.seeds]]
    found += [(band.x, edge) for band in curves for pair in _edges(band, metric) for edge in pair]
    return [*found, *((np.array(p.epochs), metric.scale * np.array(p.values)) for p in published)]


def _set_frame(axes: Any, lines: Sequence[Curve], metric: Metric) -> None:
    """Limits by what is drawn."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    low, high = _limits(lines, metric)
    if metric.name == "train/penalty" and low > 0 and high > 20 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.5)
    else:
        edge = EDGE * (high - low) or abs(high) * 0.05 or 1.0
        axes.set_ylim(low - edge, high + edge)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    if axes.get_xlim()[1] >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _limits(lines: Sequence[Curve], metric: Metric) -> tuple[float, float]:
    """Of all that is drawn, but for the bad start of long curves."""
    low = min(_settled(x, y, metric, 1).min() for x, y in lines)
    high = max(_settled(x, y, metric, -1).max() for x, y in lines)
    return float(low), float(high)


def _settled(x: np.ndarray, y: np.ndarray, metric: Metric, direction: int) -> np.ndarray:
    """The values that the frame must hold; where they get better in this direction, the first quarter may leave it."""
    late = x >= x[0] + (x[-1] - x[0]) / 4
    return y[late] if metric.direction == direction and len(x) >= LONG else y


def _caption(curves: Sequence[Band], x: str, metric: Metric, published: Sequence[Published]) -> str:
    text, lines = f"{metric.capitalized} over {X_AXES[x]}", _drawn(curves, published, metric)
    shown = ["thin: each seed"] if any(band.seeds for band in curves) else []
    shown += ["band: its 95% interval"] if any(band.edges for band in curves) else []
    text += f": mean over the seeds, {', '.join(shown)}" if shown else ""
    low, high = _limits(lines, metric)
    edge = EDGE * (high - low)
    outside = any(y.min() < low - edge or y.max() > high + edge for _, y in lines)
    parts = [f"{text}.", EXPLAINED.get(metric.name, ""), "The start lies outside the frame." if outside else ""]
    parts.append("Dashed: published, not measured here." if published else "")
    return " ".join(part for part in parts if part)
