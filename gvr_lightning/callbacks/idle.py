"""Callbacks that do nothing in a step, and what Lightning would spend on them."""

from contextlib import nullcontext
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.profilers import PassThroughProfiler

OF_A_STEP = (
    *("on_train_batch_start", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end"),
)


def pass_over(callback: Callback) -> None:
    """Let Lightning leave out those of a step's hooks that a callback has from its base class, where they are empty.

    It would enter a profiler's context for each of them, in all a fifteenth of a tiny network's step. It looks whether
    a hook can be called, so one that is None is none.
    """
    for name in OF_A_STEP:
        if getattr(type(callback), name) is getattr(Callback, name) and name not in vars(callback):
            setattr(callback, name, None)


def profile_nothing(trainer: Any) -> None:
    """Where nothing is profiled, make no generator's context of each of a step's three dozen actions."""
    if type(getattr(trainer, "profiler", None)) is PassThroughProfiler:
        trainer.profiler.profile = nullcontext
