"""The part of a global batch that a process has, and means over the processes. Imports torch only.

One convention everywhere: what a process computes is scaled so that the *mean* over the processes is the value of the
global batch. DDP and FSDP take the mean of the gradients, so theirs are the global batch's too.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class Share(NamedTuple):
    """How many ``rows`` of a total this process has, and the ``most`` that any of the ``processes`` may have."""

    rows: int
    total: int
    most: int
    processes: int

    @property
    def weight(self) -> float:
        """What a mean over the rows here weighs: the mean of weight * mean over the processes is that of all rows."""
        return self.rows * self.processes / self.total


class Shard(NamedTuple):
    """Rows ``start`` to ``stop`` of a global batch of ``total`` rows, which ``processes`` processes share."""

    start: int
    stop: int
    total: int
    processes: int = 1

    @property
    def share(self) -> Share:
        """How many rows are here."""
        return Share(self.stop - self.start, self.total, -(-self.total // self.processes), self.processes)

    def choose(self, rows: Tensor) -> tuple[Tensor, Share]:
        """Of some of the global batch's rows those that are here, numbered as here, and how many that are.

        Where there are none, the first row stands in, with weight 0: the same is computed on every process.
        """
        here = rows
        if self.processes > 1:
            here = rows[(rows >= self.start) & (rows < self.stop)] - self.start
        share = Share(len(here), len(rows), min(len(rows), self.share.most), self.processes)
        return (here if share.rows else rows.new_zeros(1)), share


def shard(total: int, rank: int, processes: int) -> Shard:
    """The rows of process ``rank``: consecutive, sizes that differ by one at most, the first processes' the larger."""
    size, larger = divmod(total, processes)
    start = rank * size + min(rank, larger)
    return Shard(start, start + size + (rank < larger), total, processes)


def even_shard(rows: int) -> Shard:
    """Of a batch of which every process has as many rows, as under a distributed sampler; alone, all of them."""
    rank, processes = rank_and_size()
    return Shard(rank * rows, (rank + 1) * rows, rows * processes, processes)


def rank_and_size() -> tuple[int, int]:
    """Which process this is, and of how many; (0, 1) outside of a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


class _Mean(torch.autograd.Function):
    """The mean over the processes, for a value that every process uses in the same way.

    With loss_r = f(mean_r x_r) on every process, DDP's mean of the gradients is right if each x_r gets f' itself: the
    incoming gradients are all equal, so the backward pass needs no collective.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x.div_(dist.get_world_size())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def mean_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means over the processes of tensors of one dtype, by one collective; differentiable, see :class:`_Mean`."""
    flat = torch.cat([t.reshape(-1) for t in tensors])
    parts = _Mean.apply(flat).split([t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """The rows of all processes, in their order, without gradients.

    Args:
        rows: (n, ...), this process's.
        counts: how many each process has; None: found out by a collective of its own.
    """
    processes = dist.get_world_size()
    if counts is None:
        sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(processes)]
        dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
        counts = [int(n) for n in sizes]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    found = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(found, padded)
    return torch.cat([part[:n] for part, n in zip(found, counts, strict=True)])
