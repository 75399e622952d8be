"""The exponential moving average of the weights, and the statistics of BatchNorm that belong to it."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from gvr_lightning.distributed.batch import over_batch


class MovingAverage(AveragedModel):
    """A copy of a model, of its weights' averages: average <- d average + (1 - d) weights.

    d = min(decay, (1 + n) / (10 + n)) after n updates if ``warmup``: without it an average of 0.9999 remembers its
    first weights for tens of thousands of updates. The first update goes all the way; buffers are the model's.

    It never trades places with the model, so at every moment the raw weights are in the one and the average in the
    other, in a checkpoint too. torch's own class reads off the device at every update how many there have been.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = False) -> None:
        super().__init__(model)
        self.requires_grad_(False)
        if getattr(model, "is_compiled", False):
            self.module.compile_backbone()  # type: ignore[operator]  # which a copy has lost
        self.decay, self.warmup = decay, warmup
        self._updates: int | None = None  # what n_averaged says, once it has been read

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move towards the model."""
        n = int(self.n_averaged) if self._updates is None else self._updates
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        if n == 0:
            for average, weight in zip(averages, weights, strict=True):
                average.copy_(weight)
        else:
            decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
            torch._foreach_lerp_(averages, weights, 1 - decay)
        buffers = list(model.buffers())
        if buffers:
            torch._foreach_copy_(list(self.module.buffers()), buffers)
        self.n_averaged += 1
        self._updates = n + 1

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._updates = None


def moving_norms(model: nn.Module, still: Sequence[nn.Module] = ()) -> list[str]:
    """The names of the layers whose running statistics training moves, without the modules that stay as they are."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m not in still]
    return [name for name, m in layers if m.running_mean is not None]


@torch.no_grad()
def estimate_statistics(network: nn.Module, names: Sequence[str], batches: Iterable[Tensor]) -> None:
    """Running statistics of a network's layers anew, each the mean over the batches of theirs, as torch's `update_bn`.

    Without any batch they stay. Of several processes each gives its rows of every batch, and all get the same.
    """
    norms: Any = [network.get_submodule(name) for name in names]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for n, images in enumerate(batches):
        for norm in norms if n == 0 else ():
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all
            norm.train()
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
    found = [statistics for norm in norms for statistics in (norm.running_mean, norm.running_var)]
    for statistics, mean in zip(found, over_batch(found), strict=True):
        statistics.copy_(mean)
