"""Published figures to draw beside one's own: two formats of CSV, told apart by their columns."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gvr_lightning.errors import UserError

ACCURACY, SCORE = "test/acc", "is/mean"  # what the two formats hold
TASKS = {ACCURACY: "classification", SCORE: "ddpm"}  # beside whose runs it is drawn
_WITH_SPREAD = re.compile(r"\s*([-+.\deE]+)\s*(?:\([^)]*\))?\s*")  # 9.34 or 9.34(0.12)
FORMATS = "method,epoch,test_acc (percent), or a name and columns epoch_<number> of inception scores mean(deviation)"


@dataclass(frozen=True)
class Published:
    """A curve by epoch: ``values[i]`` after ``epochs[i]`` epochs."""

    label: str
    metric: str  # ACCURACY as a fraction, or SCORE
    epochs: tuple[int, ...]
    values: tuple[float, ...]


def read_published(paths: Sequence[Path]) -> list[Published]:
    """The curves of all files.

    Raises:
        UserError: for a file that cannot be read or has neither format.
    """
    return [curve for path in paths for curve in _read(path)]


def not_drawn(curves: Sequence[Published], tasks: Sequence[str]) -> list[str]:
    """What to say of published figures that no run is of the kind of."""
    idle = [curve for curve in curves if TASKS[curve.metric] not in tasks]
    return [f"Published, {curve.label}: not drawn, there is no run of task={TASKS[curve.metric]}." for curve in idle]


def _read(path: Path) -> list[Published]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"published={path}: cannot be read: {error}") from error
    try:
        curves = _by_row(rows) if {"method", "epoch", "test_acc"} <= set(columns) else _by_column(rows, columns)
    except (ValueError, TypeError) as error:
        raise UserError(f"published={path}: a figure is missing or none: {error}") from error
    if not curves:
        raise UserError(f"published={path}: no figures; the columns must be {FORMATS}")
    return curves


def _by_row(rows: Sequence[dict[str, str]]) -> list[Published]:
    """One row an epoch, which counts from 0."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        epochs = tuple(int(row["epoch"]) + 1 for row in own)
        found.append(Published(method, ACCURACY, epochs, tuple(float(row["test_acc"]) / 100 for row in own)))
    return found


def _by_column(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> list[Published]:
    """One row a method, its scores after the epochs that the columns name; cells may be empty."""
    after = {name: int(name.removeprefix("epoch_")) for name in columns if re.fullmatch(r"epoch_\d+", name)}
    if not after or columns[0] in after:
        return []
    found = []
    for row in rows:
        given = {epoch: _mean(row[name]) for name, epoch in after.items() if row[name]}
        found.append(Published(row[columns[0]], SCORE, tuple(given), tuple(given.values())))
    return found


def _mean(text: str) -> float:
    match = _WITH_SPREAD.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not mean(deviation)")
    return float(match[1])
