"""The one place where loss, penalty, optimizer, clipping and schedule meet.

The order of an update is fixed: backward (over the micro-batches) -> unscale -> clip -> AGR -> update -> schedule ->
zero. Everything up to the gradients happens in one closure, so that an optimizer may call it, wrap it or call it twice.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from gvr_lightning.data.batch import Batch
from gvr_lightning.data.counter_random import hash_key
from gvr_lightning.errors import UserError
from gvr_lightning.optim.schedules import Schedule
from gvr_lightning.penalty import Penalty, RegularizedLoss
from gvr_lightning.tasks.finite import not_finite
from gvr_lightning.tasks.means import RunningMeans


class BaseTask(LightningModule):
    """Regularized training by manual optimization; a subclass says what the loss is and what is measured.

    Args:
        model: the network, with ``.backbone`` and ``.head``.
        penalty: what the loss gains, and how many views it takes.
        optimizer: parameters -> optimizer.
        wrap: optimizer -> optimizer (AGR); None for none.
        schedule: (optimizer, steps=, epochs=) -> Schedule.
        clip_norm: largest norm of all gradients together, None for any.
        clip_value: largest absolute value of a gradient's entry, None for any.
        accumulate: micro-batches that a batch is divided into; the penalty is then that of the micro-batches, averaged.
        compile: compile the backbone.
        channels_last: memory format of images and weights.
        seed: of what the network itself draws, such as dropout.
        num_classes: of the data.

    Raises:
        UserError: for settings that exclude each other.
        ValueError: for a penalty that does not fit the model.
    """

    kind: str  # the task's name in summary.json
    monitor: str  # the metric that decides which checkpoint is the best
    mode: str  # whether its "max" or "min" is
    config: dict[str, Any] | None = None  # what made the run, kept in its checkpoints

    def __init__(
        self,
        model: nn.Module,
        penalty: Penalty,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., Schedule],
        wrap: Callable[[Optimizer], Optimizer] | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        compile: bool = False,
        channels_last: bool = False,
        seed: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if clip_norm is not None and clip_value is not None:
            raise UserError("task.clip_norm and task.clip_value exclude each other: set one of them to null")
        if compile and penalty.double_backward:
            raise UserError("task.compile=true rules out a penalty that differentiates the whole network twice")
        penalty.check(model)
        self.automatic_optimization = False
        self.model, self.penalty = model, penalty
        self.make_optimizer, self.make_schedule, self.wrap = optimizer, schedule, wrap
        self.clip_norm, self.clip_value, self.accumulate, self.seed = clip_norm, clip_value, accumulate, seed
        self.num_classes = num_classes
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        if compile:
            model.compile_backbone()  # type: ignore[operator]
        self.means = RunningMeans()
        self.row: dict[str, float] = {}  # this epoch's line of metrics.csv, as it grows
        self.last_row: dict[str, float] = {}  # the one before

    def examples(self, batch: Batch) -> Batch:
        """What the network gets and is to give: the images and labels themselves, if a subclass does not say else."""
        return batch._replace(views=[self.as_input(view) for view in batch.views])

    @abstractmethod
    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of one view, a scalar."""

    @abstractmethod
    def measure(self, batch: Batch, loss: RegularizedLoss) -> dict[str, Tensor]:
        """Further 0-d tensors to average over the epoch's samples, logged under ``train/``."""

    def configure_optimizers(self) -> Any:
        """The optimizer, wrapped, and its schedule; Lightning keeps their state in the checkpoints."""
        optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad])
        if self.wrap is not None:
            optimizer = self.wrap(optimizer)
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs or 1
        schedule = self.make_schedule(optimizer, steps=steps, epochs=epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule._asdict()}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update; ``global_step`` counts these."""
        optimizer: Any = self.optimizers()
        torch.manual_seed(hash_key(self.seed, self.global_step))  # dropout: the same after a resume
        parts = [self.examples(part) for part in batch.divided(self.accumulate)]
        first: list[tuple[Batch, RegularizedLoss]] = []  # of the closure's first call, if there are several

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros((), device=self.device)
            for part in parts:
                loss = self.penalty(self.model, self.criterion, part.views, part.target, part.keys)
                share = loss.total * (len(part.samples) / len(batch.samples))
                self._require_finite(loss)
                with torch.autocast(self.device.type, enabled=False):  # or float32's own backward would be in bf16
                    self.manual_backward(share)
                total += share.detach()
                if len(first) < self.accumulate:
                    first.append((part, loss))
            return total

        optimizer.step(closure=closure)
        self._step_schedule("step")
        optimizer.zero_grad()
        for part in parts:
            self.penalty.after_step(self.model, part.views)
        self._record(first)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip: called after the closure (and after unscaling), before the update."""
        if self.clip_norm is not None:
            self.clip_gradients(optimizer, self.clip_norm, "norm")
        if self.clip_value is not None:
            self.clip_gradients(optimizer, self.clip_value, "value")

    def on_train_epoch_end(self) -> None:
        """The epoch's means to every logger, in one row with what validation measured."""
        optimizer: Any = self.optimizers()
        self._raise_if_not_finite()
        train = {f"train/{name}": value for name, value in self.means.compute().items()}
        self.log_dict(train, logger=False)  # for callbacks that monitor them
        self.row |= {"epoch": self.current_epoch, "lr": optimizer.param_groups[0]["lr"], **train}
        self._step_schedule("epoch")
        self._log(self.row)
        self.last_row, self.row = self.row, {}
        self.means.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The means so far, for a checkpoint in the middle of an epoch, and the figures of the epoch before."""
        checkpoint["epoch_means"] = {"sums": dict(self.means.sums), "weight": self.means.weight}
        checkpoint["last_row"], checkpoint["config"] = self.last_row, self.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again."""
        means, self.last_row = checkpoint["epoch_means"], checkpoint["last_row"]
        self.means.sums = {name: value.to(self.device) for name, value in means["sums"].items()}
        self.means.weight = means["weight"]

    def as_input(self, images: Tensor) -> Tensor:
        """Images in the network's memory format, and in its precision where that is not mixed."""
        dtype = next(self.model.parameters()).dtype
        return images.to(dtype=dtype, memory_format=self.memory_format)

    def _step_schedule(self, interval: str) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == interval:
                config.scheduler.step()  # type: ignore[call-arg]

    @torch.no_grad()
    def _record(self, parts: list[tuple[Batch, RegularizedLoss]]) -> None:
        this_step = RunningMeans()
        for batch, loss in parts:
            weighted, total = loss.weighted.detach(), loss.total.detach()
            values = {
                "loss": torch.stack(loss.losses).mean(),
                "penalty": loss.penalty.detach(),
                "penalty_share": torch.where(total == 0, total, weighted / total),
                **self.measure(batch, loss),
            }
            for means in (self.means, this_step):
                means.add(values, len(batch.samples))
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._raise_if_not_finite()
            now = this_step.compute()
            self._log({"epoch": self.current_epoch, "step/loss": now["loss"], "step/penalty": now["penalty"]})

    def _log(self, row: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(row, step=self.global_step)

    def _require_finite(self, loss: RegularizedLoss) -> None:
        """Stop before the update where looking costs nothing; on a GPU remember, and look when values are read."""
        self._loss = loss
        if self.device.type == "cpu" and not math.isfinite(loss.total.item()):
            raise not_finite(loss, self.trainer)

    def _raise_if_not_finite(self) -> None:
        means = self.means.compute()
        if any(not math.isfinite(means[name]) for name in ("loss", "penalty")):
            raise not_finite(self._loss, self.trainer)
