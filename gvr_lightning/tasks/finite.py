"""What is said when training diverges."""

from typing import Any

from gvr_lightning.errors import TrainingError
from gvr_lightning.penalty import RegularizedLoss


def not_finite(loss: RegularizedLoss, trainer: Any) -> TrainingError:
    """The error for a loss that is infinite or NaN, with what may help."""
    views = ", ".join(f"{x.item():.4g}" for x in loss.losses)
    lr = trainer.optimizers[0].param_groups[0]["lr"]
    return TrainingError(
        f"the loss is not finite at step {trainer.global_step} (epoch {trainer.current_epoch}): losses {views}"
        f", penalty {loss.penalty.item():.4g} x alpha {loss.alpha:g}. Try a lower lr (now {lr:.3g}), a lower alpha,"
        f" task.clip_norm=1, or trainer.precision=32"
    )
