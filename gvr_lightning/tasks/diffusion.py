"""Image generation: denoising diffusion (DDPM, Ho et al. 2020)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from gvr_lightning.data.batch import Batch
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.methods.passes import forward
from gvr_lightning.methods.penalty import RegularizedLoss
from gvr_lightning.optim.ema import MovingAverage
from gvr_lightning.random import hash_key
from gvr_lightning.tasks.base import BaseTask

TRAIN, EVALUATE = range(2)  # what a draw of (t, noise) is for


class DiffusionTask(BaseTask):
    """The mean squared error of the predicted noise, at one random timestep an image.

    A view is a draw of (t, noise), and the views of a sample are draws on one image. All draws are pure functions of
    (seed, update, sample, view); those of validation and test are the same in every epoch, so their losses compare.
    Validation, test, samples and scores use the moving average of the weights.

    Args:
        noise: the forward process and what is predicted.
        ema_decay: of the moving average.
        ema_warmup: a shorter memory in the first updates.
        **base: see :class:`BaseTask`; the model takes (x_t, t), as one tuple.
    """

    kind, monitor, mode = "ddpm", "val/loss", "min"
    needs = "images"
    ema: MovingAverage

    def __init__(self, *, noise: Noise, ema_decay: float = 0.9999, ema_warmup: bool = False, **base: Any) -> None:
        super().__init__(**base)
        self.noise = noise
        self.ema = MovingAverage(self.model, ema_decay, ema_warmup)
        self.eval_loss = MeanMetric(nan_strategy="disable")  # a loss that is not a number is told, not left out

    @property
    def validated(self) -> dict[str, str]:
        """The loss."""
        return {"val/loss": "min"}

    @property
    def averaged(self) -> nn.Module:
        """The network with the moving average of the weights, in evaluation mode."""
        return self.ema.module.eval()

    def examples(self, batch: Batch) -> Batch:
        """The views (x_t, t) of the batch's images, and the target of each."""
        return self._noisy(batch, [hash_key(TRAIN, self.seed, self.global_step, v) for v in range(len(batch.views))])

    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error over the batch and the pixels."""
        return F.mse_loss(output, target.to(output.dtype))

    def measure(self, batch: Batch, loss: RegularizedLoss) -> dict[str, Tensor]:
        """Nothing but the loss."""
        return {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add to the validation loss."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """The validation loss into this epoch's row."""
        self.epoch_row.add(self._report("val/loss"))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add to the test loss."""
        self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        """The test loss to the loggers."""
        self._log(self._report("test/loss"))

    def _noisy(self, batch: Batch, keys: list[int]) -> Batch:
        images = batch.views[0]
        draws = [self.noise.draw(images, batch.samples, key) for key in keys]
        views: list[Any] = [(self.as_input(self.noise.noisy(images, t, eps)), t) for t, eps in draws]
        target: Any = [self.noise.target(images, t, eps) for t, eps in draws]
        return batch._replace(views=views, target=target)

    def _evaluate(self, batch: Batch) -> None:
        noisy = self._noisy(batch, [hash_key(EVALUATE, self.seed)])
        losses = F.mse_loss(forward(self.averaged, noisy.views[0]).float(), noisy.target[0], reduction="none")
        self.eval_loss.update(losses.mean((1, 2, 3)))

    def _report(self, name: str) -> dict[str, float]:
        row = {name: float(self.eval_loss.compute())}
        self.eval_loss.reset()
        self.log_dict(row, logger=False)
        return row
