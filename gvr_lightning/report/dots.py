"""Figures of final values: every seed's dot, the mean, its interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.style import Figure, Look, panel, save, wrapped
from gvr_lightning.report.tables import ComparedGroup

ROW = 0.5  # inches a group
BELOW = 0.24  # the dots are drawn so far under the mean, in rows
BEYOND = 1.0  # how far an interval may widen the frame, in ranges of the dots

BROKEN = "An interval that reaches the frame goes on beyond it."

Line = tuple[ComparedGroup, list[float], float, float | None, float | None]  # a row, its dots, their mean and interval


def draw_final(rows: Sequence[ComparedGroup], metric: Metric, styles: dict[str, Look], file: Path) -> Figure:
    """The final metric of every configuration."""
    lines: list[Line] = [
        (row, list(row.group.values(metric.name).values()), row.result.mean, row.result.low, row.result.high)
        for row in rows
    ]
    what = f"{metric.words[0].upper()}{metric.words[1:]}{metric.unit}"
    caption = f"{what}: every seed's dot, above them the mean with its 95% interval. {BROKEN}"
    return _draw(lines, metric, styles, file, caption, zero=False)


def draw_differences(
    rows: Sequence[ComparedGroup], metric: Metric, styles: dict[str, Look], file: Path
) -> Figure | None:
    """The paired differences to the baseline; None without any."""
    lines: list[Line] = []
    for row in rows:
        if row.difference is not None and row.baseline is not None:
            own, base = row.group.values(metric.name), row.baseline.values(metric.name)
            dots = [own[seed] - base[seed] for seed in row.difference.seeds]
            lines.append((row, dots, row.difference.mean, row.difference.low, row.difference.high))
    if not lines:
        return None
    unit = " (percentage points)" if metric.percent else ""
    caption = f"Difference to the baseline in {metric.words}{unit}, paired by seed, with its 95% interval."
    caption += f" {_better(metric)} {BROKEN}"
    return _draw(lines, metric, styles, file, caption, zero=True)


def _draw(lines: list[Line], metric: Metric, styles: dict[str, Look], file: Path, caption: str, zero: bool) -> Figure:
    names = [wrapped(row.group.label) for row, *_ in lines]
    height = 0.9 + sum(max(ROW, 0.24 * (1 + name.count("\n"))) for name in names)
    with panel(height) as (figure, axes):
        for place, (row, dots, mean, _, high) in enumerate(lines):
            look = styles[row.group.label]
            if high is not None:
                half = metric.scale * (high - mean)
                axes.errorbar(metric.scale * mean, place, xerr=half, color=look.colour, capsize=4)
            seeds = [metric.scale * dot for dot in dots]
            axes.scatter(seeds, [place + BELOW] * len(dots), s=26, color=look.colour, alpha=0.5, linewidths=0)
            axes.scatter(metric.scale * mean, place, s=46, marker=look.marker, color=look.colour, zorder=3)
        if zero:
            axes.axvline(0, color="#222222", linewidth=1, zorder=0.9)
        axes.set_yticks(range(len(lines)), names)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(*_limits(lines, metric.scale, zero))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(
            f"difference{' (points)' if metric.percent else ''}" if zero else f"{metric.words}{metric.unit}"
        )
        _few_ticks(axes)
        return save(figure, file, caption)


def _limits(lines: list[Line], scale: float, zero: bool) -> tuple[float, float]:
    """Of the axis: all dots, zero if it matters, and the intervals as far as they leave the dots legible."""
    dots = [scale * dot for _, own, *_ in lines for dot in own] + ([0.0] if zero else [])
    ends = [scale * end for *_, low, high in lines for end in (low, high) if end is not None]
    first, last = min(dots), max(dots)
    span = last - first or abs(last) * 0.02 or 1.0
    low = max(min([first, *ends]), first - BEYOND * span)
    high = min(max([last, *ends]), last + BEYOND * span)
    return low - 0.05 * span, high + 0.05 * span


def _few_ticks(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))


def _better(metric: Metric) -> str:
    return {1: "Higher is better.", -1: "Lower is better.", 0: ""}[metric.direction]
