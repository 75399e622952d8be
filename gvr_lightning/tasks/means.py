"""Means over an epoch."""

import torch
from torch import Tensor


class RunningMeans:
    """Means of named 0-d tensors over an epoch's samples, kept on their device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weight = 0

    def add(self, values: dict[str, Tensor], weight: int) -> None:
        """Add values that stand for ``weight`` samples."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value * weight
        self.weight += weight

    def compute(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(value) / self.weight for name, value in self.sums.items()}

    def reset(self) -> None:
        """Start again."""
        self.sums, self.weight = {}, 0
