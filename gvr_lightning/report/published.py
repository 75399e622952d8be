"""Published figures to draw beside one's own: two formats of CSV, told apart by their columns.

One has a row a method and epoch, and a column a figure; the other a row a method and a column an epoch, and does not
say by itself of what.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gvr_lightning.errors import UserError

ACCURACY = "test/acc"
FIGURES = {  # columns of the first format: the metric that each is, and its unit there
    "test_acc": (ACCURACY, 0.01),
    "test_loss": ("test/loss", 1.0),
    "train_loss": ("train/total", 1.0),  # the views' losses and the weighted penalty, as the published code logs it
    "penalty": ("train/penalty", 1.0),
    "gvr_penalty": ("train/penalty", 1.0),
}
TASKS = {  # beside whose runs a metric is drawn
    **{metric: "classification" for metric, _ in FIGURES.values()},
    **dict.fromkeys(("fid", "is/mean"), "ddpm"),
}
NAMES = {"fid": "fid", "is": "is/mean", "is/mean": "is/mean"}  # as a file, its first column or the command line has it
SCORES = tuple(dict.fromkeys(NAMES.values()))
_WITH_SPREAD = re.compile(r"\s*([-+.\deE]+)\s*(?:\([^)]*\))?\s*")  # 9.34 or 9.34(0.12)
FORMATS = (
    "method,epoch and any of test_acc (percent), test_loss, train_loss, penalty; or a name and columns epoch_<number>"
    " of scores, mean or mean(deviation)"
)


@dataclass(frozen=True)
class Published:
    """A curve by epoch: ``values[i]`` after ``epochs[i]`` epochs."""

    label: str
    metric: str  # one of TASKS, on whose axis alone it is drawn; ACCURACY as a fraction
    epochs: tuple[int, ...]
    values: tuple[float, ...]


def read_published(paths: Sequence[Path]) -> list[Published]:
    """The curves of all files.

    Args:
        paths: of the files; ``fid:<path>`` or ``is:<path>`` where the file does not say itself what its scores are.

    Raises:
        UserError: for a file that cannot be read, has neither format, or scores of an unknown kind.
    """
    return [curve for path in paths for curve in _read(*_named(path))]


def _named(path: Path) -> tuple[Path, str]:
    """The file, and the metric that stands before it, "" for none."""
    metric, colon, rest = str(path).partition(":")
    return (Path(rest).expanduser(), NAMES[metric]) if colon and metric in NAMES else (path, "")


def not_drawn(curves: Sequence[Published], tasks: Sequence[str]) -> list[str]:
    """What to say of published figures that no run is of the kind of."""
    idle = [curve for curve in curves if TASKS[curve.metric] not in tasks]
    said = [f"Published, {curve.label}: not drawn, there is no run of task={TASKS[curve.metric]}." for curve in idle]
    return list(dict.fromkeys(said))


def _read(path: Path, metric: str) -> list[Published]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"published={path}: cannot be read: {error}") from error
    try:
        by_row = {"method", "epoch"} <= set(columns) and bool(FIGURES.keys() & set(columns))
        curves = _by_row(rows, columns) if by_row else _by_column(rows, columns, metric or _said_by(path, columns))
    except (ValueError, TypeError) as error:
        raise UserError(f"published={path}: a figure is missing or none: {error}") from error
    if not curves:
        raise UserError(f"published={path}: no figures; the columns must be {FORMATS}")
    if not curves[0].metric:
        ways = f"published=fid:{path} or published=is:{path}"
        raise UserError(f"published={path}: does not say whether it is of FID or of inception scores: {ways}")
    return curves


def _said_by(path: Path, columns: Sequence[str]) -> str:
    """The metric that the first column's heading names, or the file's name ends or begins with; "" for none or two."""
    heading = re.sub(r"\(.*\)", "", columns[0]).strip().lower() if columns else ""
    words = re.split(r"[^a-z]+", path.stem.lower().rstrip("0123456789"))
    named = {NAMES[word] for word in words if word in NAMES}
    at_an_end = words[0] in NAMES or words[-1] in NAMES
    return NAMES.get(heading, named.pop() if len(named) == 1 and at_an_end else "")


def _by_row(rows: Sequence[dict[str, str]], columns: Sequence[str]) -> list[Published]:
    """One row an epoch, which counts from 0; cells may be empty."""
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for column, (metric, unit) in FIGURES.items():
            own = [row for row in rows if row["method"] == method and column in columns and row[column] != ""]
            epochs, values = [int(row["epoch"]) + 1 for row in own], [unit * float(row[column]) for row in own]
            found += [Published(method, metric, tuple(epochs), tuple(values))] if own else []
    return found


def _by_column(rows: Sequence[dict[str, str]], columns: Sequence[str], metric: str) -> list[Published]:
    """One row a method, its scores after the epochs that the columns name; cells may be empty."""
    after = {name: int(name.removeprefix("epoch_")) for name in columns if re.fullmatch(r"epoch_\d+", name)}
    if not after or columns[0] in after:
        return []
    found = []
    for row in rows:
        given = {epoch: _mean(row[name]) for name, epoch in after.items() if row[name]}
        found.append(Published(row[columns[0]], metric, tuple(given), tuple(given.values())))
    return found


def _mean(text: str) -> float:
    match = _WITH_SPREAD.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not mean(deviation)")
    return float(match[1])
