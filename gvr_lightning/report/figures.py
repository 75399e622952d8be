"""The report's figures: how they look, final values with every seed's dot, and generated images."""

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gvr_lightning.report.groups import Group
from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.runs import Run
from gvr_lightning.report.tables import ComparedGroup

WIDTH, DPI = 4.8, 160  # inches; 768 pixels, shown 400 to 480 wide
COLOURS = (  # for colour-blind readers: grey, then Okabe and Ito's, then the darkest of Tol's
    *("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#882255", "#999933", "#332288"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")  # one more than colours, so that pairs repeat late
RULES: Any = {  # legible at phone width
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
}

LINE = 0.5  # inches a group in a figure of final values
BELOW = 0.24  # the dots are drawn so far under the mean, in lines
BEYOND = 1.0  # how far an interval may widen the frame, in ranges of the dots
BROKEN = "An interval that reaches the frame goes on beyond it."

GRID, SMALL, STRIP = 410, 160, 5  # pixels of a grid, of one in a strip; grids in a strip
MANY = 8  # groups from which on their grids are half as wide, to keep the page small
SPACE = 6  # pixels between them
GAP = 2  # pixels round the images of a run's grid


@dataclass(frozen=True)
class Look:
    """A method's, in every figure and table."""

    colour: str
    marker: str
    index: int  # among all


@dataclass(frozen=True)
class Figure:
    """A picture in the report's folder."""

    file: Path
    caption: str
    size: tuple[int, int]  # in pixels


@dataclass(frozen=True)
class SeedValues:
    """A group's line in a figure of final values: a dot for each seed, their mean and its interval."""

    label: str
    dots: list[float]
    mean: float
    low: float | None
    high: float | None
    less: str = ""  # what it is a difference to, where that has to be said

    @property
    def name(self) -> str:
        """The text beside it."""
        return "\n".join([wrapped(self.label), *([wrapped(f"less {self.less}")] if self.less else [])])


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """One a label, the first grey: it is a baseline."""
    found = {}
    for i, label in enumerate(dict.fromkeys(labels)):
        found[label] = Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], i)
    return found


@contextmanager
def panel(height: float) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes, ``height`` inches high; closed afterwards."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(RULES):
        figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def save(figure: Any, file: Path, caption: str) -> Figure:
    """Write what was drawn in a panel."""
    raw = io.BytesIO()
    figure.savefig(raw, dpi=DPI, format="png")
    with Image.open(raw) as picture:
        return _save_picture(picture.convert("RGB"), file, caption)


def wrapped(label: str, width: int = 20) -> str:
    """A label in lines."""
    return "\n".join(textwrap.wrap(label, width))


def draw_final(compared: Sequence[ComparedGroup], metric: Metric, styles: dict[str, Look], file: Path) -> Figure:
    """The final metric of every configuration."""
    lines = []
    for one in compared:
        dots, result = list(one.group.values(metric.name).values()), one.result
        lines.append(SeedValues(one.label, dots, result.mean, result.low, result.high))
    what = f"{metric.capitalized}{metric.unit}"
    caption = f"{what}: every seed's dot, above them the mean with its 95% interval. {BROKEN}"
    return _draw_seeds(lines, metric, styles, file, caption, differences=False)


def draw_differences(
    compared: Sequence[ComparedGroup], metric: Metric, styles: dict[str, Look], file: Path
) -> Figure | None:
    """The paired differences to the baseline; None without any. Where there are several, each line names its own."""
    lines, bases = (
        [],
        {one.baseline.label for one in compared if one.difference is not None and one.baseline is not None},
    )
    for one in compared:
        difference = one.difference
        if difference is not None and one.baseline is not None:
            own, base = one.group.values(metric.name), one.baseline.values(metric.name)
            dots = [own[seed] - base[seed] for seed in difference.seeds]
            less = one.baseline.label if len(bases) > 1 else ""
            lines.append(SeedValues(one.label, dots, difference.mean, difference.low, difference.high, less))
    if not lines:
        return None
    unit = " (percentage points)" if metric.percent else ""
    better = {1: "Higher is better.", -1: "Lower is better.", 0: ""}[metric.direction]
    to = "what it is compared with" if len(bases) > 1 else "the baseline"
    caption = f"Difference to {to} in {metric.words}{unit}, paired by seed, with its 95% interval."
    return _draw_seeds(lines, metric, styles, file, f"{caption} {better} {BROKEN}", differences=True)


def draw_samples(groups: Sequence[Group], folder: Path, prefix: str) -> list[Figure]:
    """Each group's last grid of generated images of one seed, and those of its epochs; broken files are passed over."""
    shared = set.intersection(*(set(group.runs) for group in groups))
    final, strips = [], []
    share = 1 if len(groups) < MANY else 2
    for i, group in enumerate(groups):
        seed = min(shared or group.runs)
        run = group.runs[seed]
        grids, columns = _grids(run), math.ceil(math.sqrt((run.config.get("generation") or {}).get("grid", 1)))
        who = f"{group.label}, seed {seed}"
        if "final" in grids:
            file = folder / f"{prefix}_samples_{i + 1}.png"
            final += _save_grids([grids["final"]], columns, GRID // share, file, f"{who}: generated images")
        if len(grids) > 1:
            chosen = _evenly(list(grids), STRIP)
            caption, file = f"{who}, after epochs {', '.join(chosen)}", folder / f"{prefix}_epochs_{i + 1}.png"
            strips += _save_grids([grids[name] for name in chosen], columns, SMALL // share, file, caption)
    return final + strips


def _save_picture(picture: Image.Image, file: Path, caption: str) -> Figure:
    """A PNG of at most 128 colours, which is a quarter of its size otherwise."""
    picture.quantize(128).save(file, optimize=True)
    return Figure(file, caption, picture.size)


def _draw_seeds(
    lines: Sequence[SeedValues], metric: Metric, styles: dict[str, Look], file: Path, caption: str, differences: bool
) -> Figure:
    from matplotlib.ticker import MaxNLocator

    names, scale = [line.name for line in lines], metric.scale
    height = 0.9 + sum(max(LINE, 0.24 * (1 + name.count("\n"))) for name in names)
    with panel(height) as (figure, axes):
        for y, line in enumerate(lines):
            look = styles[line.label]
            if line.high is not None:
                half = scale * (line.high - line.mean)
                axes.errorbar(scale * line.mean, y, xerr=half, color=look.colour, capsize=4)
            dots = [scale * dot for dot in line.dots]
            axes.scatter(dots, [y + BELOW] * len(dots), s=26, color=look.colour, alpha=0.5, linewidths=0)
            axes.scatter(scale * line.mean, y, s=46, marker=look.marker, color=look.colour, zorder=3)
        if differences:
            axes.axvline(0, color="#222222", linewidth=1, zorder=0.9)
        axes.set_yticks(range(len(lines)), names)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(*_limits(lines, scale, differences))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"difference{' (points)' if metric.percent else ''}" if differences else metric.heading)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return save(figure, file, caption)


def _limits(lines: Sequence[SeedValues], scale: float, zero: bool) -> tuple[float, float]:
    """Of the axis: all dots, zero if it matters, and the intervals as far as they leave the dots legible."""
    dots = [scale * dot for line in lines for dot in line.dots] + ([0.0] if zero else [])
    ends = [scale * end for line in lines for end in (line.low, line.high) if end is not None]
    first, last = min(dots), max(dots)
    span = last - first or abs(last) * 0.02 or 1.0
    low = max(min([first, *ends]), first - BEYOND * span)
    high = min(max([last, *ends]), last + BEYOND * span)
    return low - 0.05 * span, high + 0.05 * span


def _grids(run: Run) -> dict[str, Path]:
    """The files of a run's grids by the words for their epoch."""
    samples = run.path / "samples"
    grids = {m[1].lstrip("0"): p for p in sorted(samples.glob("*.png")) if (m := re.fullmatch(r"epoch_(\d+)", p.stem))}
    return {**grids, **({"final": samples / "final.png"} if (samples / "final.png").exists() else {})}


def _evenly(names: list[str], most: int) -> list[str]:
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def _save_grids(paths: Sequence[Path], columns: int, size: int, file: Path, caption: str) -> list[Figure]:
    """Side by side, each at most ``size`` pixels high and wide; nothing if one cannot be read."""
    try:
        grids = [_corner(path, columns, size) for path in paths]
    except (OSError, ValueError):
        return []
    width = sum(grid.width for grid in grids) + SPACE * (len(grids) - 1)
    sheet = Image.new("RGB", (width, max(grid.height for grid in grids)), "white")
    left = 0
    for grid in grids:
        sheet.paste(grid, (left, 0))
        left += grid.width + SPACE
    return [_save_picture(sheet, file, caption)]


def _corner(path: Path, columns: int, size: int) -> Image.Image:
    """As many whole images of a grid as fit, from its corner; shrunk only where not even one does."""
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    cell = max(1, (whole.width - GAP) // columns)
    side = max(1, size // cell) * cell + GAP
    part: Image.Image = whole.crop((0, 0, min(side, whole.width), min(side, whole.height)))
    part.thumbnail((size + GAP, size + GAP))
    return part
