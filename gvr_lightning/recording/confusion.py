"""Who was taken for whom in the test: confusion.csv, confusion.png, and classes.csv with the accuracy of each class."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gvr_lightning.files import as_text, atomic

CONFUSION, CLASSES, PICTURE = "confusion.csv", "classes.csv", "confusion.png"
COUNTED = 30  # classes, up to which a picture has room for numbers
NAMED = 100  # likewise for every name
LONGEST = 22  # characters of a name in a picture


def write_confusion(folder: Path, confusion: Tensor | None, classes: Sequence[str]) -> None:
    """The two tables, of counts (C, C) by true and predicted class; None removes those of an earlier test."""
    if confusion is None:
        for name in (CONFUSION, CLASSES, PICTURE):
            (folder / name).unlink(missing_ok=True)
        return
    counts = confusion.tolist()
    rows = ([name, *row] for name, row in zip(classes, counts, strict=True))
    _write(folder / CONFUSION, [["true \\ predicted", *classes], *rows])
    _write(folder / CLASSES, class_rows(counts, classes))


def class_rows(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> list[list[Any]]:
    """A heading and one row a class; a share of no images is an empty cell."""
    rows: list[list[Any]] = [["class", "images", "accuracy", "predicted", "precision"]]
    for i, name in enumerate(classes):
        right, images, predicted = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
        rows.append([name, images, right / images if images else "", predicted, right / predicted if predicted else ""])
    return rows


def read_cells(path: Path) -> list[list[Any]]:
    """The rows of one of these tables, shares and counts as numbers and empty cells as None; names stay as they are."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        first, *rows = csv.reader(file)
    return [first, *([name, *(float(cell) if cell else None for cell in cells)] for name, *cells in rows)]


def draw_confusion(folder: Path, confusion: Tensor | None, classes: Sequence[str], title: str) -> None:
    """confusion.png: each row's shares as shades; numbers and names as far as they can be read."""
    if confusion is None:
        return
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import PowerNorm

    n, shares = len(classes), confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    side = min(3.2 + 0.3 * n, 17.0)
    figure, axis = plt.subplots(figsize=(side + 1.2, side), layout="compressed")
    # faint shades are what errors have
    shown = axis.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    figure.colorbar(shown, ax=axis, label="share of the true class", fraction=0.04, pad=0.02)
    step = -(-n // NAMED)
    names = [_short(name) for name in classes[::step]]
    size = max(6.0, min(10.0, 700 / (n + 40)))
    axis.set_xticks(range(0, n, step), names, rotation=90, fontsize=size, parse_math=False)
    axis.set_yticks(range(0, n, step), names, fontsize=size, parse_math=False)
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_title(title, parse_math=False)
    if n <= COUNTED:
        _write_counts(axis, confusion, shares)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # names in any script
            figure.savefig(folder / PICTURE, dpi=110)
    finally:
        plt.close(figure)


def _write_counts(axis: Any, confusion: Tensor, shares: Tensor) -> None:
    largest = len(str(int(confusion.max())))
    size = min(10.0, 34.0 / max(largest, 3))
    for i, j in confusion.nonzero().tolist():
        colour = "white" if shares[i, j] > 0.4 else "black"
        axis.text(j, i, str(int(confusion[i, j])), ha="center", va="center", color=colour, fontsize=size)


def _short(name: str) -> str:
    text = " ".join(name.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([as_text(value) for value in row] for row in rows)

    atomic(path, write)
