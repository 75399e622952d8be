"""Optimizers with ``train()`` and ``eval()``, such as schedule-free ones, whose weights are others while they train."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Callback, LightningModule, Trainer


def switch(trainer: Trainer, mode: str) -> None:
    """Call ``train`` or ``eval`` of those optimizers that have it."""
    for optimizer in trainer.optimizers:
        change = getattr(optimizer, mode, None)
        if callable(change):
            change()


@contextmanager
def weights_to_use(trainer: Trainer) -> Iterator[None]:
    """The weights as they are to be used, for a checkpoint or for validation; then those of training again."""
    switch(trainer, "eval")
    try:
        yield
    finally:
        switch(trainer, "train")


class OptimizerModes(Callback):
    """Training with the weights of training, validation with those to use; a resumed run begins with the latter."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything has been restored."""
        switch(trainer, "train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Within an epoch of training."""
        switch(trainer, "eval")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to training."""
        switch(trainer, "train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The test comes next."""
        switch(trainer, "eval")
