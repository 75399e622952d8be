"""Training ends where validation has not got better for some epochs."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class EarlyStopping(Callback):
    """Counts the validations since the best one; all of its state is in the checkpoints.

    Lightning's own forgets at a resume that it has stopped, and takes its patience from the checkpoint. This one counts
    without a patience too, so one that is set for a run that goes on acts as if the run had begun with it.

    Args:
        monitor: the figure of validation.
        mode: whether its "max" or "min" is the best.
        patience: so many validations without a better one end the training; None: nothing does.
        min_delta: by more than that it has to be better.
    """

    def __init__(self, monitor: str, mode: str, patience: int | None = None, min_delta: float = 0.0) -> None:
        self.monitor, self.sign = monitor, {"max": 1, "min": -1}[mode]
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.best_epoch = self.waited = 0
        self._had_stopped = False

    @property
    def stopped(self) -> bool:
        """Whether the patience is at its end."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What was best, when, and how long ago."""
        found = {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}
        return {"monitor": self.monitor, **found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; of another figure nothing is known."""
        if state_dict["monitor"] == self.monitor:
            self.best, self.best_epoch, self.waited = (state_dict[name] for name in ("best", "best_epoch", "waited"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything has been restored; the run may have been killed after its last epoch, or be finished."""
        self._had_stopped = trainer.should_stop = self.stopped

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's end is saved; a figure that is not a number is not better."""
        value = float(trainer.callback_metrics[self.monitor])
        gain = self.sign * (value - self.best) if self.best is not None else float(value == value)
        if gain > (0.0 if self.best is None else self.min_delta):
            self.best, self.best_epoch, self.waited = value, trainer.current_epoch, 0
        else:
            self.waited += 1
        if trainer.strategy.reduce_boolean_decision(self.stopped, all=False):
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why, once."""
        if self.summary(trainer).get("stopped_early") and trainer.is_global_zero:
            how = "had stopped early" if self._had_stopped else "stopped early"
            on = "; early_stopping.patience=null goes on" if self._had_stopped else ""
            print(
                f"{how} after epoch {trainer.current_epoch} of {trainer.max_epochs}: {self.reason}{on}", file=sys.stderr
            )

    @property
    def reason(self) -> str:
        """Why it stopped, in words; epochs are counted from 1."""
        best = (
            "never was a number" if self.best is None else f"was best, {self.best:.4g}, in epoch {self.best_epoch + 1}"
        )
        return f"{self.monitor} {best}, and has not been better in {self.waited} validations since"

    def summary(self, trainer: Trainer) -> dict[str, Any]:
        """What summary.json says of it; nothing without a patience."""
        if self.patience is None:
            return {}
        early = self.stopped and trainer.current_epoch < (trainer.max_epochs or 0)
        return {"stopped_early": early, **({"reason": self.reason} if early else {})}
