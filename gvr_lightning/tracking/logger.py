"""What a run tells W&B: rows, pictures, and how it ended."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvr_lightning.recording.confusion import CLASSES, CONFUSION, PICTURE, read_cells
from gvr_lightning.recording.csv import Tracker
from gvr_lightning.tracking.session import leave, line, say

if TYPE_CHECKING:
    from wandb import Run

STEP, ROW = "trainer/step", "trainer/row"  # updates so far; of metrics.csv
AXES = {
    **dict.fromkeys(("train/*", "val/*", "lr", "lr/*", "fid", "is/*", "real/*"), "epoch"),
    **dict.fromkeys(("step/*", "agr/*", "test/*"), STEP),
}

PICTURES = {"curves": "curves.png", "confusion": PICTURE}
TABLES = {"tables/confusion": CONFUSION, "tables/classes": CLASSES}


class WandbRun(Tracker):
    """Rows, pictures and the final figures to one W&B run; trouble with W&B does not stop the training.

    Args:
        run: as ``wandb.init`` returned it.
        folder: the run's own.
        kept: rows of metrics.csv so far. What W&B lacks of them, because a kill lost it, is sent again; only an
            online run knows.
    """

    def __init__(self, run: "Run", folder: Path, kept: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__()
        self.run, self.folder, self._lost = run, folder, False
        self._files = Path(run.dir).parent
        self._next = max(len(kept), run.starting_step)  # W&B's own step: below its last one it drops a row
        self._known = (run.summary.get(STEP, -1), run.summary.get(ROW, -1)) if run.resumed else (-1, -1)
        self._rows = 0 if run.resumed else len(kept)
        self._try(self._define)
        for row in kept if run.resumed else ():
            values = {name: float(value) for name, value in row.items()}
            self.log_metrics(values, int(values.pop("step")))

    @property
    def name(self) -> str:
        """The W&B project."""
        return self.run.project

    @property
    def version(self) -> str:
        """The W&B run's id."""
        return self.run.id

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """W&B has the configuration since the run was opened."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One row, as in metrics.csv, if W&B does not have it yet: a run that was killed logs rows again."""
        place = step or 0, self._rows
        self._rows += 1
        if place > self._known:
            self._try(lambda: self.run.log({STEP: place[0], ROW: place[1], **metrics}, step=self._next, commit=True))
            self._next += 1

    def log_picture(self, name: str, path: Path) -> None:
        """Put a picture into the row that comes next."""
        from wandb import Image

        self._try(lambda: self.run.log({name: Image(str(path))}, step=self._next))

    def close(self, summary: dict[str, Any]) -> None:
        """The last and the best values, curves.png, and how the run ended: exit code 0 if it is finished, else 1."""
        metrics, status = summary.get("metrics", {}), 0 if summary["status"] == "finished" else 1
        best = {f"best/{name.removesuffix('_best')}": v for name, v in metrics.items() if name.endswith("_best")}
        train = {f"train/{name}": value for name, value in summary.get("train", {}).items()}
        ended = {key: summary[key] for key in ("status", "error", "data_hash") if key in summary}
        try:
            for name, path in PICTURES.items():
                if (self.folder / path).exists():
                    self.log_picture(name, self.folder / path)
            for name, path in TABLES.items():
                if (self.folder / path).exists():
                    self._log_table(name, self.folder / path)
            self._try(lambda: self.run.summary.update({**metrics, **best, **train, **ended}))
            self.run.finish(exit_code=status)
        except Exception as error:
            say(f"{line(error)}; send what is missing with `wandb sync {self._files}`")
        finally:
            leave()

    def _log_table(self, name: str, path: Path) -> None:
        """Put a CSV file's cells, numbers as numbers, into the row that comes next."""
        from wandb import Table

        columns, *rows = read_cells(path)
        self._try(lambda: self.run.log({name: Table(columns=columns, data=rows)}, step=self._next))

    def _define(self) -> None:
        self.run.define_metric(ROW, hidden=True)
        for name, axis in AXES.items():
            self.run.define_metric(name, step_metric=axis)

    def _try(self, action: Callable[[], Any]) -> None:
        if self._lost:
            return
        try:
            action()
        except Exception as error:
            self._lost = True
            say(f"{line(error)}: nothing more is logged there; the training and metrics.csv go on")
