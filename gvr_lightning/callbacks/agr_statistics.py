"""How much AGR changes, by tensor size."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from gvr_lightning.optim.agr import AGR, agr_statistics
from gvr_lightning.optim.wrapper import Wrapper


class AGRStatistics(Callback):
    """Logs the mean and the largest coefficient |g| / sum|g| by tensor size, every ``log_every_n_steps`` updates.

    Before the update: the gradients are what AGR is about to change. Does nothing without AGR.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Every ``log_every_n_steps`` updates, so that no other update waits for the device."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not _has_agr(optimizer) or (trainer.global_step + 1) % every:
            return
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        row = {f"agr/{name}": float(value) for name, value in agr_statistics(grads).items()}
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": trainer.current_epoch, **row}, step=trainer.global_step + 1)


def _has_agr(optimizer: Optimizer) -> bool:
    """Whether AGR is among the wrappers of the update's gradients."""
    return isinstance(optimizer, AGR) or (isinstance(optimizer, Wrapper) and _has_agr(optimizer.base))
