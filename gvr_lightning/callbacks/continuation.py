"""A run that goes on by another command line: what of its optimizer and its schedule is another takes effect.

The learning rate goes on as that of a run which had had the new settings from its beginning. What cannot take effect
is refused before anything is touched.
"""

import sys
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gvr_lightning.callbacks.changes import Changes
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.errors import UserError
from gvr_lightning.optim.schedules import Schedule


class Continuation(Callback):
    """Carries the changes out once Lightning has restored the rest.

    Args:
        found: the changes; none for a run that starts.

    Attributes:
        start: the update and the epoch at which the schedule began.
    """

    def __init__(self, found: Changes | None = None) -> None:
        self.found = found or Changes()
        self.start = {"step": 0, "epoch": 0}

    def require(self, task: Any) -> None:
        """Refuse what cannot take effect.

        Raises:
            UserError: for a setting that the optimizer does not keep by parameter group.
        """
        if self.found.settings:
            groups = task.plain_optimizer().param_groups
            for name in self.found.settings:
                if any(name not in group for group in groups):
                    raise UserError(f"optimizer.{name}: cannot be another for a run that goes on; start a new run")

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule began."""
        return dict(self.start)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Likewise."""
        self.start = dict(state_dict)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Forget the state of what is of another class."""
        if self.found.new_optimizer:
            checkpoint["optimizer_states"] = []
        if self.found.new_schedule:
            checkpoint["lr_schedulers"] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything has been restored; before the first update."""
        task: Any = pl_module
        if not self.found.said:
            return
        optimizer = trainer.optimizers[0]
        fresh = task.plain_optimizer()
        for group, new in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            group.update({name: new[name] for name in self.found.settings if name != "lr"})
        if "fused" in self.found.settings:
            _counts_on_device(optimizer)
        if self.found.reschedule:
            self._reschedule(trainer, task, optimizer, fresh)
        if rank_and_size()[0] == 0:
            rate = f"the learning rate is {optimizer.param_groups[0]['lr']:.4g}"
            print("; ".join([*self.found.said, rate]), file=sys.stderr)

    def _reschedule(self, trainer: Trainer, task: Any, optimizer: Optimizer, fresh: Optimizer) -> None:
        (config,) = trainer.lr_scheduler_configs
        if isinstance(config.scheduler, ReduceLROnPlateau) and not self.found.new_schedule:  # it has no length
            for group in optimizer.param_groups:
                group["lr"] *= self.found.ratio
            return
        now = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        if self.found.new_schedule:
            self.start = now
        for group, new in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            group["lr"] = new["lr"]
            group.pop("initial_lr", None)
        schedule: Schedule = task.scheduled(optimizer, **self.start)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # the updates were done before
            for _ in range(now[schedule.interval] - self.start[schedule.interval]):
                schedule.scheduler.step()
        config.scheduler, config.interval = schedule.scheduler, schedule.interval


def _counts_on_device(optimizer: Optimizer) -> None:
    """A fused optimizer has its counts of updates where the weights are, and another one's checkpoint on the host."""
    for p, state in optimizer.state.items():
        if isinstance(count := state.get("step"), Tensor):
            state["step"] = count.to(p.device, torch.float32)
