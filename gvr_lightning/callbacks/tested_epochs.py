"""The test accuracy after some epochs, as published curves have it: for pictures only."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gvr_lightning.callbacks.optimizer_modes import weights_to_use
from gvr_lightning.distributed.batch import over_batch
from gvr_lightning.distributed.strategies import divide_parameters, share_statistics
from gvr_lightning.recording.epoch_row import epoch_row


class TestedEpochs(Callback):
    """Scores the test images after every so many epochs and the last.

    Nothing goes by these figures: they are in the epoch's row of metrics.csv alone, where neither the best checkpoint
    nor early stopping nor a schedule looks for them.

    Args:
        every: epochs.
    """

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, by the weights that count, where it is time."""
        epoch, task = trainer.current_epoch + 1, pl_module
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        with weights_to_use(trainer):
            task.on_validation_start()  # the statistics of an average
            share_statistics(trainer.strategy)
            task.eval()
            epoch_row(task).add(_scores(trainer, task))
            task.train()
            divide_parameters(trainer.strategy)


@torch.no_grad()
def _scores(trainer: Any, task: Any) -> dict[str, float]:
    """Accuracy and loss over the test images of all processes."""
    sums: Tensor = torch.zeros(3, dtype=torch.float64)  # images, right ones, losses
    with trainer.precision_plugin.val_step_context():
        for batch in trainer.datamodule.tested(task.device):
            logits = task.evaluated(batch)
            losses = F.cross_entropy(logits, batch.target, reduction="none")
            right = logits.argmax(1) == batch.target
            found = [float(len(losses)), float(right.sum()), float(losses.double().sum())]
            sums += torch.tensor(found, dtype=torch.float64)
    (sums,) = over_batch([sums.float().to(task.device)])
    return {"test/acc": float(sums[1] / sums[0]), "test/loss": float(sums[2] / sums[0])}
