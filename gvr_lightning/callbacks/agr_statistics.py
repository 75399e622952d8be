"""How much AGR changes, by tensor size."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from gvr_lightning.methods.agr import AGR, agr_statistics
from gvr_lightning.methods.optimizer_wrapper import Wrapper


class AGRStatistics(Callback):
    """Logs the mean and the largest coefficient |g| / sum|g| by tensor size, every ``log_every_n_steps`` updates.

    The gradients are those that AGR is about to change for the update: clipped, and where an optimizer asks for them
    several times, the last. Does nothing without AGR, nor for an update that is skipped.
    """

    def __init__(self) -> None:
        self._found: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Every ``log_every_n_steps`` updates, so that no other update waits for the device."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        agr = _agr(optimizer)
        if agr is None or (trainer.global_step + 1) % every:
            return
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        limit: Any = pl_module.clip_value  # the task clips after this; a norm's clipping leaves the coefficients
        used = grads if limit is None else [g.clamp(-limit, limit) for g in grads]
        self._found = agr_statistics(used, agr.granularity)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Log what was found, before a checkpoint counts the rows."""
        found, self._found = self._found, {}
        if not found or pl_module.skipped_now:
            return
        row = {f"agr/{name}": float(value) for name, value in found.items()}
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **row}, step=trainer.global_step)


def _agr(optimizer: Any) -> AGR | None:
    """AGR, where it is among the wrappers of the update's gradients."""
    while isinstance(optimizer, Wrapper) and not isinstance(optimizer, AGR):
        optimizer = optimizer.base
    return optimizer if isinstance(optimizer, AGR) else None
