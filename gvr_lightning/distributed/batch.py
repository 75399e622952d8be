"""The global batch: which of its rows a process has, and means over all of them. Imports torch only.

One convention everywhere: what a process computes is scaled so that the *mean* over the processes is the value of the
global batch. DDP and FSDP take the mean of the gradients, so theirs are the global batch's too.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

FLOPS_PER_BYTE = 100  # float32 operations in the time that a byte takes between two processes, about, on GPUs


class RowCount(NamedTuple):
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
    def row_count(self) -> RowCount:
        """How many rows are here."""
        return RowCount(self.stop - self.start, self.total, -(-self.total // self.processes), self.processes)

    def choose(self, rows: Tensor) -> tuple[Tensor, RowCount]:
        """Of some of the global batch's rows those that are here, numbered as here, and how many that are.

        Where there are none, the first row stands in, with weight 0: the same is computed on every process.
        """
        here = rows
        if self.processes > 1:
            here = rows[(rows >= self.start) & (rows < self.stop)] - self.start
        count = RowCount(len(here), len(rows), min(len(rows), self.row_count.most), self.processes)
        return (here if count.rows else rows.new_zeros(1)), count


def balanced_shard(total: int, rank: int, processes: int) -> Shard:
    """The rows of process ``rank``: consecutive, sizes that differ by one at most, the first processes' the larger."""
    size, larger = divmod(total, processes)
    start = rank * size + min(rank, larger)
    return Shard(start, start + size + (rank < larger), total, processes)


def equal_shard(rows: int) -> Shard:
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


def over_batch(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What is a mean over this process's rows, to that over the global batch's; in one process as it is.

    What a method makes of a mean gradient (its norm, an angle) has to be made of this one. It takes one collective, and
    none in the backward pass: see :class:`_Mean`.

    Args:
        tensors: of any shapes and one dtype, such as the gradients of a loss; every process calls with as many.
    """
    if rank_and_size()[1] == 1:
        return list(tensors)
    flat = _Mean.apply(torch.cat([t.reshape(-1) for t in tensors]))
    parts = flat.split([t.numel() for t in tensors])
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


def product_norm(a: Tensor, b: Tensor, most: int) -> Tensor:
    """||a^T b||^2, of the mean over the processes of these matrices, without making one of their size.

    It is sum_ij (a_i.a_j)(b_i.b_j) over the rows of all processes, which are sent instead of a sum of such matrices.

    Args:
        a: (n, C), this process's rows.
        b: (n, D), likewise.
        most: rows that any process may have; the same on each.

    Returns:
        A scalar whose mean over the processes is the squared norm, and whose gradients' mean is the norm's.
    """
    processes = rank_and_size()[1]
    others = torch.cat([a, b], 1).detach()
    if processes > 1:
        padded = torch.cat([others, others.new_zeros(most - len(others), others.shape[1])])
        others = gather_rows(padded, [most] * processes)
    others_a, others_b = others.split([a.shape[1], b.shape[1]], 1)
    # symmetric in its two sides: differentiate one and double it
    half: Tensor = ((a @ others_a.T) * (b @ others_b.T)).sum() / processes
    return 2 * half - half.detach()


def product_norm_is_cheaper(rows: int, classes: int, features: int, processes: int = 1, views: int = 2) -> bool:
    """Whether inner products of rows beat the (C, D) matrices of V views, by operations and bytes sent a process.

    Args:
        rows: of one view, as many as all processes together may have.
        classes: C.
        features: D.
        processes: that share the rows.
        views: V; inner products go by pairs of views, the matrices of V - 1 differences are sent.
    """
    sent = 4 * FLOPS_PER_BYTE * (processes - 1) / processes  # of a float, in operations
    pairs, here = views * (views - 1) // 2, rows / processes
    dense = 2 * views * here * classes * features + 2 * sent * (views - 1) * classes * features
    gram = pairs * (2 * 2 * here + sent) * 2 * rows * (classes + features)
    return gram < dense
