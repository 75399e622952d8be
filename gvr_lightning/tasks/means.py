"""Means over an epoch."""

from typing import Any

import torch
from torch import Tensor

from gvr_lightning.distributed.batch import gather_rows, over_batch, rank_and_size


class RunningMeans:
    """Means of named 0-d tensors over an epoch's samples, kept on their device.

    Values are added such that their means over the processes are those of the global batch. Those that come together
    are one tensor, so that adding them is two kernels however many they are.
    """

    def __init__(self) -> None:
        self._together: dict[tuple[str, ...], Tensor] = {}
        self.weight = 0

    @property
    def sums(self) -> dict[str, Tensor]:
        """By name."""
        found: dict[str, Tensor] = {}
        for names, together in self._together.items():
            for name, value in zip(names, together.unbind(), strict=True):
                found[name] = found[name] + value if name in found else value
        return found

    def add(self, values: dict[str, Tensor], weight: int) -> None:
        """Add values that stand for ``weight`` samples, those of all processes."""
        names, new = tuple(values), torch.stack(list(values.values()))
        if names in self._together:
            self._together[names].add_(new, alpha=weight)
        else:
            self._together[names] = new * weight
        self.weight += weight

    def compute(self) -> dict[str, float]:
        """The means so far; every process has to ask."""
        sums = self._over_processes()
        values = torch.stack(list(sums.values())).tolist() if sums else []  # one wait for all
        return {name: value / self.weight for name, value in zip(sums, values, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, the same on every process, with what each of them has; every process has to ask."""
        sums = self.sums
        state = {"sums": self._over_processes(), "weight": self.weight}
        if sums and rank_and_size()[1] > 1:
            rows = gather_rows(torch.stack(list(sums.values())).unsqueeze(0))
            state["by_process"] = dict(zip(sums, rows.unbind(1), strict=True))
        return state

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from there: to the last bit, if there are as many processes as before."""
        sums, (rank, processes) = state["sums"], rank_and_size()
        own = state.get("by_process", {})
        if own and all(len(values) == processes for values in own.values()):
            sums = {name: values[rank] for name, values in own.items()}
        self._together = {tuple(sums): torch.stack(list(sums.values())).to(device)} if sums else {}
        self.weight = state["weight"]

    def reset(self) -> None:
        """Start again."""
        self._together, self.weight = {}, 0

    def _over_processes(self) -> dict[str, Tensor]:
        sums = self.sums
        return dict(zip(sums, over_batch(list(sums.values())), strict=True)) if sums else {}
