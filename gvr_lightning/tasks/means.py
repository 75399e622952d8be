"""Means over an epoch."""

from typing import Any

import torch
from torch import Tensor

from gvr_lightning.distributed.batch import gather_rows, over_batch, rank_and_size


class RunningMeans:
    """Means of named 0-d tensors over an epoch's samples, kept on their device.

    Values are added such that their means over the processes are those of the global batch.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weight = 0

    def add(self, values: dict[str, Tensor], weight: int) -> None:
        """Add values that stand for ``weight`` samples, those of all processes."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value * weight
        self.weight += weight

    def compute(self) -> dict[str, float]:
        """The means so far; every process has to ask."""
        return {name: float(value) / self.weight for name, value in self._over_processes().items()}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, the same on every process, with what each of them has; every process has to ask."""
        state = {"sums": self._over_processes(), "weight": self.weight}
        if self.sums and rank_and_size()[1] > 1:
            rows = gather_rows(torch.stack(list(self.sums.values())).unsqueeze(0))
            state["by_process"] = dict(zip(self.sums, rows.unbind(1), strict=True))
        return state

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from there: to the last bit, if there are as many processes as before."""
        sums, (rank, processes) = state["sums"], rank_and_size()
        own = state.get("by_process", {})
        if own and all(len(values) == processes for values in own.values()):
            sums = {name: values[rank] for name, values in own.items()}
        self.sums = {name: value.to(device) for name, value in sums.items()}
        self.weight = state["weight"]

    def reset(self) -> None:
        """Start again."""
        self.sums, self.weight = {}, 0

    def _over_processes(self) -> dict[str, Tensor]:
        return dict(zip(self.sums, over_batch(list(self.sums.values())), strict=True)) if self.sums else {}
