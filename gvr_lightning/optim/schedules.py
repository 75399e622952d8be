"""Learning-rate schedules, each (optimizer, steps, epochs, ...) -> Schedule. Imports torch only.

``steps`` and ``epochs`` are those of the whole run; ``interval`` says what one step of the schedule is.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR


class Schedule(NamedTuple):
    """A torch scheduler and when to step it: after every "step" or every "epoch"."""

    scheduler: LRScheduler
    interval: str


@dataclass
class WarmupFactor:
    """(t + 1) / warmup for t < warmup, then 1, or a half cosine down to 0 at ``end`` if that is given."""

    warmup: int
    end: int | None = None

    def __call__(self, t: int) -> float:
        """The factor on the learning rate of update t = 0, 1, ..."""
        if t < self.warmup:
            return (t + 1) / self.warmup
        if self.end is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (t - self.warmup) / max(1, self.end - self.warmup))))


def constant(optimizer: Optimizer, steps: int, epochs: int) -> Schedule:
    """The learning rate as it is."""
    return Schedule(ConstantLR(optimizer, factor=1.0), "epoch")


@dataclass
class CosineFactor:
    """Half a cosine from 1 down to ``floor`` over ``length`` steps."""

    length: int
    floor: float

    def __call__(self, t: int) -> float:
        """The factor on the learning rate after t steps."""
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * t / self.length))


def cosine(optimizer: Optimizer, steps: int, epochs: int, interval: str = "epoch", min_lr: float = 0.0) -> Schedule:
    """A half cosine from the learning rate to ``min_lr``, stepped every "epoch" (as published) or every "step".

    Groups with rates of their own keep their ratio to it, down to as much of ``min_lr``.
    """
    length = {"epoch": epochs, "step": steps}[interval]
    if min_lr and any("name" in group for group in optimizer.param_groups):
        lr = optimizer.defaults.get("lr", optimizer.param_groups[0]["lr"])
        return Schedule(LambdaLR(optimizer, CosineFactor(length, min_lr / lr)), interval)
    return Schedule(CosineAnnealingLR(optimizer, T_max=length, eta_min=min_lr), interval)


def onecycle(optimizer: Optimizer, steps: int, epochs: int, warmup_fraction: float = 0.3) -> Schedule:
    """Up to the learning rate and down to nearly nothing, by update (Smith and Topin 2018); momentum as it is."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    # a first phase shorter than two updates would divide by zero
    fraction = min(1.0, max(warmup_fraction, 2 / max(steps, 1)))
    return Schedule(
        OneCycleLR(optimizer, peaks, total_steps=max(steps, 3), pct_start=fraction, cycle_momentum=False), "step"
    )


def warmup(optimizer: Optimizer, steps: int, epochs: int, warmup_steps: int = 200, cosine: bool = False) -> Schedule:
    """Linearly up over ``warmup_steps`` updates, then constant, or a half cosine to zero at the end of the run."""
    return Schedule(LambdaLR(optimizer, WarmupFactor(warmup_steps, steps if cosine else None)), "step")
