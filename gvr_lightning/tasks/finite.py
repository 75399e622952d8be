"""What happens when training diverges."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gvr_lightning.errors import DivergedError, TrainingError
from gvr_lightning.methods.penalty import RegularizedLoss

STOP, SKIP = "stop", "skip"
ADVICE = ", a lower alpha, task.clip_norm=1, trainer.precision=32, or task.non_finite=skip"


class NonFinite:
    """What to do about an update whose gradient is infinite or NaN: ``stop``, or ``skip`` it.

    Gradients are looked at when they are those of the global batch, so that all processes do the same.

    Args:
        policy: "stop" or "skip"; what is skipped leaves weights, optimizer and BatchNorm's statistics as they were.
        limit: so many updates of a run may be skipped.

    Raises:
        ValueError: for another policy.
    """

    def __init__(self, policy: str = STOP, limit: int = 100) -> None:
        if policy not in (STOP, SKIP):
            raise ValueError(f"non_finite must be stop or skip, got {policy!r}")
        self.skips, self.limit = policy == SKIP, limit
        self.skipped = 0
        self._buffers: list[Tensor] = []

    def remember(self, model: nn.Module) -> None:
        """Keep the buffers, which a forward pass with infinite activations spoils."""
        if self.skips:
            self._buffers = [b.clone() for b in model.buffers()]

    def skip(self, model: nn.Module, error: TrainingError) -> None:
        """Forget the gradients: without one no optimizer changes a parameter or its state.

        Raises:
            TrainingError: ``error``, if nothing may be skipped, or no more.
        """
        if not self.skips:
            raise error
        self.skipped += 1
        if self.skipped > self.limit:
            raise DivergedError(f"{error}. {self.limit} updates were skipped before (task.max_skipped)")
        for buffer, before in zip(model.buffers(), self._buffers, strict=True):
            buffer.copy_(before)
        for p in model.parameters():
            p.grad = None


def is_finite(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether all gradients are finite; waits for the device."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if _have_a_small_norm(grads):
        return True
    if len({(type(g), g.device, g.dtype) for g in grads}) == 1 and type(grads[0]) is Tensor:
        # as get_total_norm, which takes a small network's layer's time to look for several kinds and for shards
        return math.isfinite(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))).item())
    norm = torch.nn.utils.get_total_norm(grads, foreach=True) if grads else torch.zeros(())
    return bool((norm.full_tensor() if hasattr(norm, "full_tensor") else norm).isfinite())


def _have_a_small_norm(grads: list[Tensor]) -> bool:
    """Whether they are plain ones of a CPU whose norm is nowhere near overflowing: seen by one operation on each."""
    squares = 0.0
    for g in grads:
        if type(g) is not Tensor or not g.is_cpu or g.dtype not in (torch.float32, torch.float64):
            return False
        norm = torch.linalg.vector_norm(g).item()
        squares += norm * norm
    return squares < 1e38


def not_finite(loss: RegularizedLoss, trainer: Any) -> TrainingError:
    """The error for a loss or a gradient that is infinite or NaN, with what may help."""
    views = ", ".join(f"{x.item():.4g}" for x in loss.losses)
    lr = trainer.optimizers[0].param_groups[0]["lr"]
    what = "loss" if not bool(loss.total.isfinite()) else "gradient"
    return DivergedError(
        f"the {what} is not finite at step {trainer.global_step} (epoch {trainer.current_epoch}): losses {views}"
        f", penalty {loss.penalty.item():.4g} x alpha {loss.alpha:g}. Try a lower lr (now {lr:.3g}){ADVICE}"
    )


@contextmanager
def overflow_is_told(trainer: Any) -> Iterator[None]:
    """Round an update, whose own numbers may be too large for the weights' precision.

    Raises:
        TrainingError: instead of torch's "cannot be converted ... without overflow".
    """
    try:
        yield
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        at = f"the update at step {trainer.global_step}"
        raise DivergedError(f"{at} overflows: use a lower lr (now {lr:.3g})") from error


def require_finite_weights(task: nn.Module) -> None:
    """Called once training has ended: what the last update made of the weights no loss has shown.

    Raises:
        TrainingError: for a weight or a running statistic that is infinite or NaN.
    """
    for name, value in task.state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        if whole.is_floating_point() and not bool(whole.isfinite().all()):
            raise DivergedError(f"{name} is not finite at the end of training: try a lower lr{ADVICE}")


def require_finite_figures(figures: dict[str, float]) -> None:
    """Called with what the test found.

    Raises:
        TrainingError: for a figure that is infinite or NaN.
    """
    for name, value in figures.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise DivergedError(f"{name} is {value} at the end of training: try a lower lr{ADVICE}")
