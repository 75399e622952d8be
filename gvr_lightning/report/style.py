"""How every figure looks: colours that hold for colour-blind readers, one method one colour, legible at phone width."""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, DPI = 4.8, 160  # inches; 768 pixels, shown 400 to 480 wide
COLOURS = (  # grey, then Okabe and Ito's, then the darkest of Tol's
    *("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#882255", "#999933", "#332288"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")  # one more than colours, so that pairs repeat late
RULES: Any = {
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


@dataclass(frozen=True)
class Look:
    """A method's, in every figure and table."""

    colour: str
    marker: str
    place: int  # among all


@dataclass(frozen=True)
class Figure:
    """A picture in the report's folder."""

    file: Path
    caption: str
    size: tuple[int, int]  # in pixels


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
    """A PNG of at most 128 colours, which is a quarter of its size otherwise."""
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, dpi=DPI, format="png")
    with Image.open(raw) as picture:
        small = picture.convert("RGB").quantize(128)
        small.save(file, optimize=True)
        return Figure(file, caption, small.size)


def wrapped(label: str, width: int = 20) -> str:
    """A label in lines."""
    return "\n".join(textwrap.wrap(label, width))
