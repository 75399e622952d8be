"""Progress on standard error: a bar with images/s and time left on a terminal, one line an epoch elsewhere."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gvr_lightning.callbacks.throughput import Throughput
from gvr_lightning.progress import progress_bar
from gvr_lightning.recording.epoch_row import epoch_row

SHOWN = {"train/loss": "loss", "val/loss": "val loss", "val/acc": "val acc", "fid": "FID"}
LINE_EVERY = 2.0  # seconds between lines in a log file, at least


class RunProgress(ProgressBar):
    """One bar for the whole run.

    Args:
        throughput: what counts the images.
    """

    def __init__(self, throughput: Throughput) -> None:
        super().__init__()
        self.throughput = throughput
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        self._last_line = 0.0

    def enable(self) -> None:
        """There is nothing to switch on."""

    def disable(self) -> None:
        """Other processes than the first stay silent."""
        self.console.quiet = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's way to print beside a bar."""
        self.console.print(*args)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        if not self.console.is_terminal or self.console.quiet:
            return
        times = (TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bar = progress_bar(*times, TextColumn("{task.fields[rate]} {task.fields[metrics]}"))
        steps = trainer.estimated_stepping_batches
        self.task = self.bar.add_task("training", total=steps, completed=trainer.global_step, rate="", metrics="")
        self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            rate = f"{self.throughput.images_per_second:,.0f} images/s"
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self.bar.update(self.task, completed=trainer.global_step, description=epoch, rate=rate)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the figures of the epoch before: they are whole only now."""
        if time.monotonic() - self._last_line > LINE_EVERY:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last epoch's figures, and leave the bar as it is."""
        self._show(trainer, pl_module)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it is."""
        self._close()

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row = epoch_row(pl_module).last
        if not row or self.console.quiet:
            return
        text = "  ".join(f"{label} {row[key]:.4f}" for key, label in SHOWN.items() if key in row)
        if self.bar is not None:
            self.bar.update(self.task, metrics=text)
            return
        self._last_line = time.monotonic()
        done, epochs = row["epoch"] + 1, trainer.max_epochs or 1
        left = self.throughput.elapsed / done * (epochs - done)
        rate = f"{self.throughput.images_per_second:,.0f} images/s  {left:.0f} s left"
        print(f"epoch {done}/{epochs}  {text}  {rate}", file=sys.stderr)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
