"""Figures of curves: the mean over the seeds with the band of its 95% interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gvr_lightning.report.curves import X_AXES, Band
from gvr_lightning.report.metrics import EXPLAINED, Metric
from gvr_lightning.report.published import Published
from gvr_lightning.report.style import Figure, Look, panel, save, wrapped

PUBLISHED = ("#000000", "#8c510a", "#5e3c99", "#01665e", "#b2182b", "#7f7f7f")
PLOT, LINE, GAP = 3.0, 0.167, 0.07  # inches: all but the legend; a line of it, and what is between two entries
LONG = 10  # points of a curve whose start may leave the frame
MARKS = 6  # on a curve, shifted from method to method so that equal curves are still told apart


def draw_lines(
    curves: Sequence[Band],
    x: str,
    metric: Metric,
    styles: dict[str, Look],
    file: Path,
    published: Sequence[Published] = (),
) -> Figure:
    """A metric over one of :data:`~gvr_lightning.report.curves.X_AXES`; published curves dashed, without a band."""
    entries = [wrapped(band.label, 26) for band in curves]
    entries += [wrapped(f"published, {curve.label}", 26) for curve in published]
    with panel(PLOT + _legend_height(entries)) as (figure, axes):
        for band in curves:
            _line(axes, band, metric, styles[band.label])
        for i, curve in enumerate(published):
            axes.plot(curve.epochs, metric.scale * np.array(curve.values), linestyle="--", linewidth=1.3,
                      color=PUBLISHED[i % len(PUBLISHED)], label=entries[len(curves) + i])  # fmt: skip
        _frame(axes, curves, published, metric)
        axes.set(xlabel=X_AXES[x], ylabel=f"{metric.words}{metric.unit}")
        figure.legend(loc="outside lower center", ncols=2)
        return save(figure, file, _caption(curves, x, metric, published))


def _legend_height(entries: Sequence[str]) -> float:
    """Of a legend in two columns, in inches: that of the taller one."""
    half = (len(entries) + 1) // 2
    lines = max(sum(entry.count("\n") + 1 for entry in column) for column in (entries[:half], entries[half:]))
    return LINE * lines + GAP * half


def _line(axes: Any, band: Band, metric: Metric, look: Look) -> None:
    mean = metric.scale * band.mean
    step = max(1, len(band.x) // MARKS)
    axes.plot(
        *(band.x, mean),
        color=look.colour,
        linewidth=3.5 if look.place == 0 else 1.8,  # the baseline can be seen under a curve that equals it
        marker=look.marker,
        markersize=5,
        markevery=(look.place % step, step),
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=wrapped(band.label, 26),
    )
    if band.low is not None and band.high is not None:
        low = metric.scale * band.low
        low = np.where(mean > 0, np.maximum(low, 1e-3 * mean), low)  # of what is positive: a log scale lacks zero
        axes.fill_between(band.x, low, metric.scale * band.high, color=look.colour, alpha=0.15, linewidth=0)


def _frame(axes: Any, curves: Sequence[Band], published: Sequence[Published], metric: Metric) -> None:
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
    text = f"{metric.words[0].upper()}{metric.words[1:]} over {X_AXES[x]}"
    if any(band.low is not None for band in curves):
        text += ": mean over the seeds, band: its 95% interval"
    parts = [f"{text}.", EXPLAINED.get(metric.name, ""), "Dashed: published, not measured here." if published else ""]
    return " ".join(part for part in parts if part)
