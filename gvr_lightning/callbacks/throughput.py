"""How long training took and how many images it saw: what a fair comparison is made of."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gvr_lightning.recording.epoch_row import epoch_row

COUNTED = ("samples", "images", "gradient_evaluations")


class Throughput(Callback):
    """Counts training time (validation and checkpoints excluded), images (samples times views), and of how many images
    the gradients were taken (an image counts as often as its update takes them), over resumes too. Where images are
    decoded or transformed ahead of the steps, also how long these waited for them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.samples = 0
        self.images = 0
        self.gradient_evaluations: int | None = 0  # None: a checkpoint of before did not count them
        self._since: float | None = None
        self._reading: Any = None  # of the data module, where images are got ready ahead of the steps
        self._waited_before = 0.0

    @property
    def data_wait(self) -> dict[str, float]:
        """The share of the training time that steps waited for images so far; nothing where these are in memory."""
        return {} if self._reading is None else {"data_wait": round(self._waited / self.elapsed, 6)}

    @property
    def _waited(self) -> float:
        return self._waited_before + (0.0 if self._reading is None else float(self._reading.waited))

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.seconds + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @property
    def images_per_second(self) -> float:
        """Images over seconds so far."""
        return self.images / self.elapsed if self.elapsed else 0.0

    def summary(self) -> dict[str, Any]:
        """What summary.json tells of it."""
        rate = round(self.images_per_second, 1)
        told = {
            "seconds": round(self.elapsed, 3),
            "images_per_second": rate,
            "images": self.images,
            "samples": self.samples,
        }
        known = self.gradient_evaluations is not None
        return told | ({"gradient_evaluations": self.gradient_evaluations} if known else {}) | self.data_wait

    def state_dict(self) -> dict[str, Any]:
        """The counts so far."""
        waited = {} if self._reading is None else {"waited": self._waited}
        return {"seconds": self.elapsed, **{name: getattr(self, name) for name in COUNTED}, **waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seconds, self.samples, self.images = (state_dict[k] for k in ("seconds", "samples", "images"))
        self.gradient_evaluations = state_dict.get("gradient_evaluations")
        self._waited_before = state_dict.get("waited", 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, if anything is left to do; a run resumed within an epoch has no start of the epoch."""
        data: Any = getattr(trainer, "datamodule", None)
        self._reading = getattr(data, "reading", None)
        self._waited_before -= 0.0 if self._reading is None else self._reading.waited  # before the clock started
        if not trainer.should_stop:
            self._start()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Start the clock again after a checkpoint within the epoch."""
        self._start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the batch."""
        self.samples += batch.total
        images = batch.total * len(batch.views)
        self.images += images
        if self.gradient_evaluations is not None:
            task: Any = pl_module
            self.gradient_evaluations += images * task.evaluations

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stop the clock."""
        self._stop(pl_module.device)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, and put the counts into the epoch's row."""
        self._stop(pl_module.device)
        further = {f"train/{name}": share for name, share in self.data_wait.items()}
        epoch_row(pl_module).add({"train/seconds": self.seconds, "train/images": self.images, **further})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the clock."""
        self._stop(pl_module.device)

    def _start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def _stop(self, device: torch.device) -> None:
        if self._since is not None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.seconds, self._since = self.elapsed, None
