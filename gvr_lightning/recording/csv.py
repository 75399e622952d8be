"""Where the figures go. Each factory: (run folder, step and rows to go on from, configuration) -> loggers."""

import csv as csv_format
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

METRICS = "metrics.csv"


class Tracker(Logger):
    """A logger that also takes pictures, and is told how the run ended."""

    @abstractmethod
    def log_picture(self, name: str, path: Path) -> None:
        """Show a PNG under a name."""

    @abstractmethod
    def close(self, summary: dict[str, Any]) -> None:
        """Called once, with what summary.json holds, however the run ended."""


class CsvLogger(Logger):
    """``metrics.csv``: one row a call, one column a metric; a resumed run goes on in the same file.

    Args:
        path: of the file.
        rows: so many stay: a run that was killed may have logged more than it saved.
    """

    def __init__(self, path: Path, rows: int = 0) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = read_metrics(path)[:rows] if path.exists() else []
        self.columns = list(dict.fromkeys(["step", *(name for row in self.rows for name in row)]))
        self._rewrite()

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.stem

    @property
    def version(self) -> str:
        """There is only one."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row; a new metric adds a column to the whole file."""
        row = {"step": step or 0, **metrics}
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        self.columns += new
        if new:
            self._rewrite()
        else:
            with _naming(self.path), self.path.open("a", newline="") as file:
                csv_format.DictWriter(file, self.columns).writerow(row)

    def text(self) -> str:
        """What the file holds."""
        file = StringIO(newline="")
        writer = csv_format.DictWriter(file, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        return file.getvalue()

    def _rewrite(self) -> None:
        restore_metrics(self.path, self.text())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv as written, empty cells left out."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if v not in ("", None)} for row in csv_format.DictReader(file)]


def csv(folder: Path, step: int = 0, rows: int = 0, config: dict[str, Any] | None = None) -> list[Logger]:
    """metrics.csv, which every run writes."""
    return [CsvLogger(folder / METRICS, rows)]


def tensorboard(folder: Path, step: int = 0, rows: int = 0, config: dict[str, Any] | None = None) -> list[Logger]:
    """metrics.csv and TensorBoard's event files, in ``tensorboard/``."""
    board = TensorBoardLogger(folder, name="tensorboard", version="", purge_step=step + 1 if step else None)
    return [*csv(folder, step, rows), board]


def trackers(loggers: Iterable[Any]) -> list[Tracker]:
    """Those that take pictures."""
    return [logger for logger in loggers if isinstance(logger, Tracker)]


def written(loggers: Iterable[Any]) -> tuple[int, str | None]:
    """How many rows metrics.csv has, and all of it, which a checkpoint holds."""
    return next(((len(logger.rows), logger.text()) for logger in loggers if isinstance(logger, CsvLogger)), (0, None))


def restore_metrics(path: Path, text: str) -> None:
    """Write a metrics.csv, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _naming(path):
        with temporary.open("w", newline="") as file:
            file.write(text)
        temporary.replace(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A full disk does not say which file it was."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
