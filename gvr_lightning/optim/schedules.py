"""Learning-rate schedules, each (optimizer, steps, epochs, ...) -> Schedule. Imports torch only.

``steps`` and ``epochs`` are those of the whole run; ``interval`` says what one step of the schedule is.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR


class Schedule(NamedTuple):
    """A torch scheduler and when to step it: after every "step" or every "epoch"."""

    scheduler: LRScheduler
    interval: str


def rise(t: int, length: int, start: float | None = None) -> float:
    """The factor of update t = 0, 1, ... on a line up to 1: from ``start``, or with one step more from 1/length."""
    if t >= length:
        return 1.0
    return (t + 1) / length if start is None else start + (1 - start) * t / length


@dataclass
class WarmupFactor:
    """Up for ``warmup`` updates as in :func:`rise`, then 1, or half a cosine down to ``floor`` at ``end``, if given.

    The cosine counts from the end of the warm-up, or from ``since``.
    """

    warmup: int
    end: int | None = None
    start: float | None = None
    floor: float = 0.0
    since: int | None = None

    def __call__(self, t: int) -> float:
        """The factor on the learning rate of update t = 0, 1, ..."""
        if t < self.warmup or self.end is None:
            return rise(t, self.warmup, self.start)
        since = self.warmup if self.since is None else self.since
        share = min(1.0, (t - since) / max(1, self.end - since))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass
class MultiStepFactor:
    """``gamma`` to the power of how many milestones an update has behind it, times :func:`rise`."""

    gamma: float
    milestones: list[int] = field(default_factory=list)  # updates done when the rate falls, in order
    warmup: int = 0
    start: float | None = None

    def __call__(self, t: int) -> float:
        """The factor on the learning rate of update t = 0, 1, ..."""
        return float(self.gamma ** bisect_right(self.milestones, t)) * rise(t, self.warmup, self.start)


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
        return Schedule(LambdaLR(optimizer, CosineFactor(length, _floor(optimizer, min_lr))), interval)
    return Schedule(CosineAnnealingLR(optimizer, T_max=length, eta_min=min_lr), interval)


def onecycle(optimizer: Optimizer, steps: int, epochs: int, warmup_fraction: float | None = 0.3) -> Schedule:
    """Up to the learning rate and down to nearly nothing, by update (Smith and Topin 2018); momentum as it is."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    # a first phase shorter than two updates would divide by zero
    fraction = min(1.0, max(warmup_fraction or 0.0, 2 / max(steps, 1)))
    return Schedule(
        OneCycleLR(optimizer, peaks, total_steps=max(steps, 3), pct_start=fraction, cycle_momentum=False), "step"
    )


def warmup(
    optimizer: Optimizer,
    steps: int,
    epochs: int,
    warmup_steps: int | None = 200,
    cosine: bool = False,
    warmup_epochs: float | None = None,
    warmup_fraction: float | None = None,
    warmup_start: float | None = None,
    min_lr: float = 0.0,
    cosine_from: str = "warmup",
) -> Schedule:
    """Linearly up to the learning rate, then constant, or a half cosine to ``min_lr`` at the end of the run.

    Args:
        optimizer: whose learning rate is the highest one.
        steps: updates of the run.
        epochs: of the run.
        warmup_steps: updates that go up, or
        warmup_epochs: likewise in epochs, or
        warmup_fraction: likewise as a share of the run; with all three None there is no warm-up.
        cosine: afterwards.
        warmup_start: the first update's rate as a share of the highest one; None: one step of the line, 1/length.
        min_lr: where the cosine ends; groups with rates of their own keep their ratio to it.
        cosine_from: whether the cosine begins after the "warmup" or at the "start", and the warm-up stands before it.
    """
    length = updates(steps, epochs, warmup_steps, warmup_epochs, warmup_fraction)
    end, since = (steps if cosine else None), {"warmup": None, "start": 0}[cosine_from]
    factor = WarmupFactor(length, end, warmup_start, _floor(optimizer, min_lr), since)
    return Schedule(LambdaLR(optimizer, factor), "step")


def multistep(
    optimizer: Optimizer,
    steps: int,
    epochs: int,
    milestones: Sequence[float] = (60, 120, 160),
    gamma: float = 0.2,
    warmup_steps: int | None = None,
    warmup_epochs: float | None = None,
    warmup_fraction: float | None = None,
    warmup_start: float | None = None,
) -> Schedule:
    """Times ``gamma`` after each of ``milestones``, which are in epochs and may have fractions; a warm-up before it.

    The arguments of the warm-up are those of :func:`warmup`.
    """
    falls = [updates(steps, epochs, epochs_done=milestone) for milestone in sorted(milestones)]
    length = updates(steps, epochs, warmup_steps, warmup_epochs, warmup_fraction)
    return Schedule(LambdaLR(optimizer, MultiStepFactor(gamma, falls, length, warmup_start)), "step")


def updates(
    steps: int, epochs: int, number: int | None = None, epochs_done: float | None = None, share: float | None = None
) -> int:
    """So many updates of a run of ``steps`` in ``epochs``, given as a number, in epochs or as a share of it; else 0.

    Raises:
        ValueError: if more than one of the three is given.
    """
    given = [x for x in (number, epochs_done, share) if x is not None]
    if len(given) > 1:
        raise ValueError("a warm-up is given in updates, in epochs or as a share of the run, and not in two of these")
    if number is not None:
        return number
    return round(epochs_done * steps / epochs) if epochs_done is not None else round((share or 0.0) * steps)


def _floor(optimizer: Optimizer, min_lr: float) -> float:
    """A least rate as a share of the learning rate that the others are multiples of."""
    return float(min_lr / optimizer.defaults.get("lr", optimizer.param_groups[0]["lr"])) if min_lr else 0.0
