"""How an input goes through a network, and what it leaves behind for a penalty."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from gvr_lightning.distributed.sync_batchnorm import uncounted

Network = Any  # an nn.Module with .backbone and .head, which nn.Module's own types cannot say
Input = Tensor | tuple[Tensor, ...]  # what a network takes; all batch first
Criterion = Callable[[Tensor, Tensor], Tensor]  # (logits, target) -> scalar


class Pass(NamedTuple):
    """One input's way through the network; all have the input's rows first."""

    logits: Tensor
    features: Tensor | None = None  # what enters the head
    entering: Input | None = None  # what enters the last stage
    head: nn.Module | None = None  # the layer that the features enter


Through = Callable[[nn.Module, Input], Pass]


def whole(model: Network, x: Input) -> Pass:
    """A pass through any module. Here and below logits leave in float32 at least, so losses and penalties do too."""
    return Pass(at_least_float32(logits_of(model(x))))


def twice_differentiable(model: Network, x: Input) -> Pass:
    """A pass through any module, by kernels that have second derivatives: fused attention has none."""
    with sdpa_kernel(SDPBackend.MATH):
        return whole(model, x)


def by_head(model: Network, x: Input) -> Pass:
    """A pass that keeps what enters ``model.head``."""
    require_parts(model)
    features = model.backbone(x)
    return Pass(at_least_float32(model.head(features)), features, head=model.head)


def by_stage(model: Network, x: Input) -> Pass:
    """A pass that also keeps what enters ``model.backbone.last_stage``."""
    require_parts(model)
    entering = model.backbone.early(x)
    features = model.backbone.last_stage(entering)
    return Pass(at_least_float32(model.head(features)), features, entering, model.head)


def logits_of(output: Any) -> Tensor:
    """What a network gives: a tensor, or an object or a mapping with ``logits``, as Hugging Face's models do.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(output, Mapping):
        output = output.get("logits")
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(f"the network gives a {type(output).__name__}, neither a tensor nor something with .logits")
    return logits


def forward(model: nn.Module, x: Input) -> Tensor:
    """``model(x)``, also of no rows, which some networks cannot do: then of one, which is cut off again."""
    if len(x[0] if isinstance(x, tuple) else x):
        logits: Tensor = model(x)
        return logits
    with uncounted(model):
        one: Tensor = model(row_of_zeros(x))
        return one[:0]


def take(x: Input, index: Tensor) -> Input:
    """Some rows of a tensor, or of each tensor of a tuple."""
    return tuple(t[index] for t in x) if isinstance(x, tuple) else x[index]


def row_of_zeros(x: Input) -> Input:
    """As an input of one row."""
    return tuple(map(_row_of_zeros, x)) if isinstance(x, tuple) else _row_of_zeros(x)


def _row_of_zeros(x: Tensor) -> Tensor:
    return x.new_zeros(1, *x.shape[1:])


def has_parts(model: Network) -> bool:
    """Whether a network says what its head is and what comes before."""
    return hasattr(model, "head") and hasattr(model, "backbone")


def require_parts(model: Network) -> None:
    """Raise a ValueError for a network that does not."""
    if not has_parts(model):
        name = type(model).__name__
        raise ValueError(
            f"{name} has no .backbone and .head: wrap it in a SplitNetwork, or give layers=[name patterns]"
        )


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """BatchNorm normalises with the batch's statistics as in training, but its running ones do not move."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision to float32; anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
