"""What a task gets. Imports torch only."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gvr_lightning.distributed.batch import Shard, balanced_shard


class Batch(NamedTuple):
    """A process's rows of a global batch: V views (B, C, H, W) of the same samples, labels (B,), numbers (B,).

    Labels of mixed samples are soft, (B, classes); where views are mixed each for itself, a list with those of each.
    Numbers and keys stay on the CPU, where what is drawn for them is drawn. A task may make views of several tensors,
    and a target for each, of them.
    """

    views: list[Any]
    target: Any
    samples: Tensor
    keys: Tensor | None = None  # (V, all rows) random numbers, from which a penalty draws its subsets
    shards: tuple[Shard, ...] = ()  # of each micro-batch, the rows that are here
    true: Any = None  # the labels (B,) before label noise, where there is any, or a list of such

    @property
    def total(self) -> int:
        """The rows of all processes."""
        return sum(s.total for s in self.shards) if self.shards else len(self.samples)

    def divided(self) -> "list[Batch]":
        """The micro-batches."""
        if len(self.shards) < 2:
            return [self]
        parts, row, key = [], 0, 0
        for s in self.shards:
            here, all_rows = slice(row, row + s.row_count.rows), slice(key, key + s.total)
            keys = None if self.keys is None else self.keys[:, all_rows]
            views = [view[here] for view in self.views]
            target, true = (_rows(labels, here) for labels in (self.target, self.true))
            parts.append(Batch(views, target, self.samples[here], keys, (s,), true))
            row, key = here.stop, all_rows.stop
        return parts


def _rows(labels: Any, here: slice) -> Any:
    """Some rows of labels, of those of each view, or of none."""
    if labels is None:
        return None
    return [each[here] for each in labels] if isinstance(labels, list) else labels[here]


def rows_here(index: Tensor, micro_batches: int, rank: int, processes: int) -> tuple[Tensor, tuple[Shard, ...]]:
    """Of a global batch's sample numbers (B,) those of one process.

    The batch is divided into micro-batches first and each of these among the processes, so that a micro-batch is the
    same samples however many processes there are. Sizes differ by one at most; there are fewer micro-batches if there
    are fewer samples, and a process may have no rows of the last.
    """
    parts = index.tensor_split(min(micro_batches, len(index)))
    shards = tuple(balanced_shard(len(part), rank, processes) for part in parts)
    mine = [part[s.start : s.stop] for part, s in zip(parts, shards, strict=True)]
    return (mine[0] if len(mine) == 1 else torch.cat(mine)), shards
