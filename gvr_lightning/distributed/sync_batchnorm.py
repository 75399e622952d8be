"""BatchNorm over the rows of all processes. Imports torch only.

torch's own works on GPUs alone and cannot be differentiated twice, which penalties on more than the head need.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvr_lightning.distributed.batch import rank_and_size


class SyncBatchNorm(_BatchNorm):
    """``nn.BatchNorm`` in one process; over several its statistics are those of all rows, in training.

    Equal to one process's in value and in every derivative, where the objective is a mean over the processes.
    """

    counted = True  # whether the rows that come are the batch's; see `uncounted`

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; then whatever a subclass of BatchNorm has behind it, as timm's activations."""
        x = self._over_processes(x) if self.training and rank_and_size()[1] > 1 else super().forward(x)
        for name in ("drop", "act"):
            x = self._modules[name](x) if name in self._modules else x  # type: ignore[misc]
        return x

    def _over_processes(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x32 = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            mean, var, count = _moments(x32, self.counted)
            shape = [1, -1] + [1] * (x.ndim - 2)
            scale = (var + self.eps).rsqrt() * (1 if self.weight is None else self.weight)
            y = (x32 - mean.view(shape)) * scale.view(shape)
            y = y if self.bias is None else y + self.bias.view(shape)
            if self.track_running_stats:
                self._move(mean.detach(), var.detach() * (count / (count - 1).clamp(min=1)))
        return y.to(x.dtype)

    @torch.no_grad()
    def _move(self, mean: Tensor, var: Tensor) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)  # type: ignore[union-attr]
        self.running_var.lerp_(var.to(self.running_var.dtype), momentum)  # type: ignore[union-attr]


def _moments(x: Tensor, counted: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and count of all processes' rows, by one collective.

    From every process's own mean and squared deviations (Chan et al. 1979), so that nothing cancels.
    """
    dims = [0, *range(2, x.ndim)]
    mean = x.mean(dims)
    squares = (x - mean.view([1, -1] + [1] * (x.ndim - 2))).square().sum(dims)
    own = torch.cat([mean, squares, mean.new_tensor([x.numel() // x.shape[1]])])
    if not counted:
        own = own * 0  # with its graph, as the backward pass has a collective too
    rank, processes = rank_and_size()
    here = torch.arange(processes, device=x.device) == rank
    everyone = _Sum.apply(torch.where(here[:, None], own, torch.zeros_like(own)))
    means, squares, counts = everyone.split([x.shape[1], x.shape[1], 1], 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return mean, (squares.sum(0) + (counts * (means - mean).square()).sum(0)) / total, total


@contextmanager
def uncounted(model: nn.Module) -> Iterator[None]:
    """For a row that stands in where a process has none: it is normalised as the others are, and leaves no trace."""
    modules = [m for m in model.modules() if isinstance(m, SyncBatchNorm)]
    for module in modules:
        module.counted = False
    try:
        yield
    finally:
        for module in modules:
            module.counted = True


class _Sum(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs, any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(grads[0])
        return summed


def synchronise(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm within by a :class:`SyncBatchNorm` with the same parameters, buffers and keys."""
    for name, child in module.named_children():
        setattr(module, name, synchronise(child))
    if not isinstance(module, _BatchNorm) or isinstance(module, SyncBatchNorm):
        return module
    found = SyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
    found._parameters, found._buffers, found._modules = module._parameters, module._buffers, module._modules
    return found.train(module.training)
