"""What a task gets. Imports torch only."""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """What a task gets: V views (B, C, H, W) of the same samples, their labels (B,), and their numbers (B,).

    A task may make views of several tensors, and a target for each, of them.
    """

    views: list[Any]
    target: Any
    samples: Tensor
    keys: Tensor | None = None  # (V, B) random numbers, from which a penalty draws its subsets

    def divided(self, number: int) -> "list[Batch]":
        """That many micro-batches, of sizes that differ by one at most; fewer if there are fewer samples."""
        bounds = torch.arange(len(self.samples)).tensor_split(min(number, len(self.samples)))
        return [self._part(slice(int(b[0]), int(b[-1]) + 1)) for b in bounds]

    def _part(self, rows: slice) -> "Batch":
        keys = None if self.keys is None else self.keys[:, rows]
        return Batch([view[rows] for view in self.views], self.target[rows], self.samples[rows], keys)
