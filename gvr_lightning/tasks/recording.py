"""What a task measures while it trains: means over the epoch, its row of figures, and what a resume needs of them."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gvr_lightning.data.batch import Batch
from gvr_lightning.errors import UserError
from gvr_lightning.methods.penalty import RegularizedLoss, mean_of
from gvr_lightning.recording.csv import written
from gvr_lightning.recording.epoch_row import EpochRow
from gvr_lightning.tasks.finite import NonFinite, not_finite
from gvr_lightning.tasks.means import RunningMeans

AT_ONCE = 16  # micro-batches, on a CPU: behind one another their small operations find the caches theirs, not a pass's


class RecordingTask(LightningModule):
    """The figures of training; a subclass computes what they are of.

    Args:
        non_finite: whether to "stop" at an update whose gradient is not finite, or to "skip" it.
        max_skipped: updates of a run that may be skipped.
    """

    monitor: str  # the metric that decides which checkpoint is the best
    mode: str  # whether its "max" or "min" is
    records_alpha = False  # whether it is not the same in every update
    config: dict[str, Any] | None = None  # what made the run, kept in its checkpoints

    def __init__(self, non_finite: str = "stop", max_skipped: int = 100) -> None:
        super().__init__()
        self.means, self.non_finite = RunningMeans(), NonFinite(non_finite, max_skipped)
        self.epoch_row = EpochRow()
        self._unread: list[tuple[Batch, RegularizedLoss]] = []  # of updates whose figures are not in the means yet
        self._loss: RegularizedLoss  # of the last pass, to tell of it where it is not finite

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes round every hook which one it is: no parameter or module, as the rest may be."""
        if name == "_current_fx_name":
            self.__dict__[name] = value  # 28 times a step, in a tenth of the time
        else:
            super().__setattr__(name, value)

    @property
    @abstractmethod
    def validated(self) -> dict[str, str]:
        """The figures of validation, each with "max" or "min", which is its best."""

    @property
    def confusion(self) -> Tensor | None:
        """Tested images by true and predicted class, (C, C), once a test of classes is through."""
        return None

    @abstractmethod
    def measure(self, batch: Batch, loss: RegularizedLoss) -> dict[str, Tensor]:
        """Further 0-d tensors to average over the epoch's samples, logged under ``train/``; the images are gone."""

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """What is logged of an epoch's means: those themselves, and ratios of them, here the penalty's of the loss."""
        weighted, total = means.pop("weighted", 0.0), means.get("total", 0.0)
        return {**means, "penalty_share": weighted / total if total else 0.0}

    def step_schedule(self, interval: str, figures: Mapping[str, float] | None = None) -> None:
        """Step the schedules that count in "step" or "epoch"; one that follows a metric takes it from the figures."""
        for config in self.trainer.lr_scheduler_configs:
            if config.interval != interval:
                continue
            scheduler: Any = config.scheduler
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(self._followed(scheduler.mode, figures or {}))
            else:
                scheduler.step()

    def _followed(self, mode: str, figures: Mapping[str, float]) -> float:
        """What is followed: what decides on the best checkpoint, or the loss; without validation that of training."""
        wanted = [self.monitor] if mode == self.mode else []
        wanted += ["val/loss", "train/loss"] if mode == "min" else []
        name = next((name for name in wanted if name in figures), None)
        if name is None:
            raise UserError(f"scheduler: mode={mode} by epoch has no metric to follow here; use mode=min, by epoch")
        return float(figures[name])

    @torch.no_grad()
    def record(self, parts: list[tuple[Batch, RegularizedLoss]]) -> None:
        """Add an update's figures to the epoch's, and log them where it is time.

        Args:
            parts: the micro-batches, and what the penalty returned for each.
        """
        self._unread += [_let_go(batch, loss) for batch, loss in parts]
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            now = self._compute(self._read(last=len(parts)))
            shown = ("loss", "penalty", "alpha") if self.records_alpha else ("loss", "penalty")
            self._log({"epoch": self.current_epoch, **{f"step/{name}": now[name] for name in shown}})
        elif len(self._unread) >= AT_ONCE or self.device.type != "cpu":
            self._read()

    @torch.no_grad()
    def _read(self, last: int = 0) -> RunningMeans:
        """Add what is unread to the epoch's means; returns the means of so many of the last alone."""
        of_last, others = RunningMeans(), len(self._unread) - last
        for i, (batch, loss) in enumerate(self._unread):
            values = {
                "loss": mean_of(loss.losses),
                "penalty": loss.penalty,
                "weighted": loss.weighted,
                "total": loss.total,
                **self.measure(batch, loss),
            }
            if self.records_alpha:
                values["alpha"] = torch.full_like(loss.penalty, loss.alpha)
            for means in (self.means, of_last) if i >= others else (self.means,):
                means.add(values, batch.total)
        self._unread.clear()
        return of_last

    def on_train_epoch_end(self) -> None:
        """The epoch's means to every logger, in one row with what validation measured."""
        self._read()
        optimizer: Any = self.optimizers()
        train = {f"train/{name}": value for name, value in self._compute(self.means).items()}
        if self.non_finite.skips:
            train["train/skipped"] = float(self.non_finite.skipped)
        self.log_dict(train, logger=False)  # for callbacks that monitor them
        groups = optimizer.param_groups
        rates = {"lr": groups[0]["lr"], **{f"lr/{group['name']}": group["lr"] for group in groups if "name" in group}}
        self.epoch_row.add({"epoch": self.current_epoch, **rates, **train})
        measured = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        self.step_schedule("epoch", {**measured, **train})
        self._log(self.epoch_row.end())
        self.means.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The means so far, for a checkpoint in the middle of an epoch, and the figures of the epoch before."""
        self._read()
        checkpoint["epoch_means"], checkpoint["skipped"] = self.means.state_dict(), self.non_finite.skipped
        checkpoint["last_row"], checkpoint["config"] = self.epoch_row.last, self.config
        checkpoint["metrics_rows"], checkpoint["metrics"] = written(self.loggers)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again."""
        self.means.load_state_dict(checkpoint["epoch_means"], self.device)
        self.epoch_row.last, self.non_finite.skipped = checkpoint["last_row"], checkpoint.get("skipped", 0)

    def _compute(self, means: RunningMeans) -> dict[str, float]:
        """The means and what follows from them; values are read here, so a GPU waits, and looks at them."""
        found = means.compute()
        if any(not math.isfinite(found.get(name, 0.0)) for name in ("loss", "total")):
            raise not_finite(self._loss, self.trainer)
        return self.derived(found)

    def _log(self, row: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(row, step=self.global_step)


def _let_go(batch: Batch, loss: RegularizedLoss) -> tuple[Batch, RegularizedLoss]:
    """Figures are made of neither the images nor what the backward pass kept."""
    loss.total, loss.weighted, loss.penalty = loss.total.detach(), loss.weighted.detach(), loss.penalty.detach()
    loss.losses, loss.logits = [x.detach() for x in loss.losses], [x.detach() for x in loss.logits]
    return batch._replace(views=[None] * len(batch.views)), loss
