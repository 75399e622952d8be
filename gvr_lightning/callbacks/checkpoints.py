"""When checkpoints are written: after epochs and within, and which one is the best."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from gvr_lightning.callbacks.beside import Beside
from gvr_lightning.callbacks.checkpoint_files import Writing
from gvr_lightning.callbacks.optimizer_modes import weights_to_use
from gvr_lightning.checkpoint_names import BEST, LAST
from gvr_lightning.distributed.agreement import Agreement
from gvr_lightning.errors import TrainingError


class Checkpoints(Checkpoint):
    """``last.ckpt`` after epochs and every so often within, ``best.ckpt`` where validation was best.

    Args:
        folder: where to.
        monitor: the metric that decides what is best; without it (no validation) the last is the best.
        mode: "max" or "min".
        every_n_steps: also after so many updates, None for not.
        every_n_minutes: also when the last one is so old, None for not.
        every_n_epochs: after so many, and always after the best so far and the last.
        in_background: a thread writes, while the training goes on; None: where that is on a GPU.
    """

    def __init__(
        self,
        folder: Path,
        monitor: str,
        mode: str = "max",
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        every_n_epochs: int = 1,
        in_background: bool | None = None,
    ) -> None:
        self.folder, self.monitor, self.sign = Path(folder), monitor, {"max": 1, "min": -1}[mode]
        self.every_n_steps, self.every_n_epochs, self.in_background = every_n_steps, every_n_epochs, in_background
        self.seconds = every_n_minutes * 60 if every_n_minutes is not None else float("inf")
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.wanted: Callable[[Trainer], bool] = lambda trainer: False  # whether the run is to end after this epoch
        self.saved_step = 0
        self._agreement, self._saved, self._beside = Agreement(), time.monotonic(), Beside()

    @property
    def last_path(self) -> Path:
        """The newest checkpoint."""
        return self.folder / LAST

    @property
    def best_path(self) -> Path:
        """The one with the best validation."""
        return self.folder / BEST

    def state_dict(self) -> dict[str, Any]:
        """What was best so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts; what there is has been restored from a checkpoint."""
        self._saved, self.saved_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save where it is time; not before an epoch's validation, which belongs to its last update."""
        self._beside.look()
        old = time.monotonic() - self._saved > self.seconds
        (agreed,) = self._agreement([float(old)], trainer.global_step)
        counted = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if (counted or agreed) and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Runs after the task's own hook, so the schedule has been stepped."""
        value = trainer.callback_metrics.get(self.monitor)
        better = value is not None and self._is_better(float(value))
        if not (better or self._is_time(trainer) or self.wanted(trainer)):
            return
        better = better or self.best is None  # also while there is no validation; not after an epoch that has none
        if better:
            self.best, self.best_epoch = None if value is None else float(value), trainer.current_epoch
        self.save(trainer, best=better)

    def _is_better(self, value: float) -> bool:
        """Of equal ones the first is the best; any number is better than none."""
        return self.best is None or math.isnan(self.best) or self.sign * value > self.sign * self.best

    def _is_time(self, trainer: Trainer) -> bool:
        done = trainer.current_epoch + 1
        return done % self.every_n_epochs == 0 or done == trainer.max_epochs or trainer.should_stop

    def save(self, trainer: Trainer, best: bool = False) -> None:
        """Write the last checkpoint, perhaps as the best one too; every process has to ask."""
        beside = trainer.strategy.root_device.type != "cpu" if self.in_background is None else self.in_background
        how = Writing(self.best_path if best else None, self._beside if beside else None)
        with weights_to_use(trainer):
            trainer.save_checkpoint(self.last_path, storage_options=how)
        self._saved, self.saved_step = time.monotonic(), trainer.global_step

    def wait(self) -> None:
        """Until what is being written is there.

        Raises:
            TrainingError: if it cannot be written.
        """
        self._beside.wait()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What comes next reads the checkpoints."""
        self.wait()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise; what has gone wrong first is what is told."""
        with suppress(TrainingError):
            self.wait()
