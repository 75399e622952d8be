"""The exponential moving average of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


@dataclass
class Decay:
    """average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) after n updates if ``warmup``.

    Without the warm-up an average of 0.9999 remembers its first weights for tens of thousands of updates.
    """

    decay: float
    warmup: bool

    @torch.no_grad()
    def __call__(self, averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor) -> None:
        """One update, in place."""
        decay = self.decay
        if self.warmup:
            n = int(updates)
            decay = min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averages), list(weights), 1 - decay)


def moving_average(model: nn.Module, decay: float, warmup: bool) -> AveragedModel:
    """A copy of the model; ``update_parameters(model)`` moves it, the first time all the way.

    It never trades places with the model, so at every moment the raw weights are in the one and the average in the
    other, in a checkpoint too.
    """
    return AveragedModel(model, multi_avg_fn=Decay(decay, warmup)).requires_grad_(False)  # type: ignore[arg-type]
