"""Which layers a gradient-variance penalty compares: one function each, (model, criterion, passes) -> scalar.

A pass is what one view's way through the network leaves behind; a subset of the batch is a choice of its rows, so
subsampling costs no forward pass.
"""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from gvr_lightning.distributed.shards import Share
from gvr_lightning.variance import (
    Criterion,
    at_least_float32,
    gradient_variance,
    last_layer_variance,
    per_sample_variance,
)

Network = Any  # an nn.Module with .backbone and .head, which nn.Module's own types cannot say
View = Tensor | tuple[Tensor, ...]  # what a network takes; all batch first
Through = Callable[[nn.Module, View, Tensor], "Pass"]
Compare = Callable[[nn.Module, Criterion, "Sequence[Pass]"], Tensor]
Parameters = Callable[[nn.Module], "list[nn.Parameter]"]


@dataclass
class Pass:
    """One view's way through the network; all have the batch's rows first."""

    logits: Tensor
    target: Tensor
    features: Tensor | None = None  # what enters the head
    entering: View | None = None  # what enters the last stage
    share: Share | None = None  # which part of the pass's rows is here; None: all of them

    @property
    def processes(self) -> int:
        """How many share the rows."""
        return self.share.processes if self.share else 1

    @property
    def weight(self) -> float:
        """Of a mean over these rows, so that its mean over the processes is that of all rows."""
        return self.share.weight if self.share else 1.0

    def rows(self, index: Tensor, share: Share) -> "Pass":
        """The same pass for some samples."""
        tensors = (self.logits, self.target, self.features, self.entering)
        return Pass(*(None if t is None else take(t, index) for t in tensors), share)  # type: ignore[arg-type]

    def loss(self, criterion: Criterion, logits: Tensor | None = None) -> Tensor:
        """The weighted loss of these rows, a mean over them; zero with its graph where there are none.

        Args:
            criterion: (logits, target) -> mean over the rows.
            logits: of another pass over the same rows.
        """
        logits = self.logits if logits is None else logits
        if not self.weight:
            return logits.sum()
        loss = criterion(logits, self.target)
        return loss if self.weight == 1 else loss * self.weight


def take(x: View, index: Tensor) -> View:
    """Some rows of a tensor, or of each tensor of a tuple."""
    return tuple(t[index] for t in x) if isinstance(x, tuple) else x[index]


def whole(model: Network, view: View, target: Tensor) -> Pass:
    """A pass through any module. Here and below logits leave in float32 at least, so losses and penalties do too."""
    return Pass(at_least_float32(model(view)), target)


def twice_differentiable(model: Network, view: View, target: Tensor) -> Pass:
    """A pass through any module, by kernels that have second derivatives: fused attention has none."""
    with sdpa_kernel(SDPBackend.MATH):
        return whole(model, view, target)


def by_head(model: Network, view: View, target: Tensor) -> Pass:
    """A pass that keeps what enters ``model.head``."""
    _require_parts(model)
    features = model.backbone(view)
    return Pass(at_least_float32(model.head(features)), target, features)


def by_stage(model: Network, view: View, target: Tensor) -> Pass:
    """A pass that also keeps what enters ``model.backbone.last_stage``."""
    _require_parts(model)
    entering = model.backbone.early(view)
    features = model.backbone.last_stage(entering)
    return Pass(at_least_float32(model.head(features)), target, features, entering)


def head(model: Network, criterion: Criterion, passes: Sequence[Pass]) -> Tensor:
    """The last layer: closed form if it is linear, else double backward through it alone."""
    losses = [p.loss(criterion) for p in passes]
    if not _is_linear(model, passes):
        return gradient_variance(losses, head_parameters(model), passes[0].processes)
    logits = [p.logits for p in passes]
    return last_layer_variance(losses, logits, _features(passes), model.head.bias is not None, _fullest(passes))


def head_per_sample(model: Network, criterion: Criterion, passes: Sequence[Pass]) -> Tensor:
    """The last layer, each sample for itself."""
    if not _is_linear(model, passes):
        raise ValueError(f"per_sample needs a linear last layer over (B, D) features, not {type(model.head).__name__}")
    logits, targets = [p.logits for p in passes], [p.target for p in passes]
    bias = model.head.bias is not None
    return per_sample_variance(criterion, logits, _features(passes), targets, bias, passes[0].weight)


def last_stage(model: Network, criterion: Criterion, passes: Sequence[Pass]) -> Tensor:
    """The last stage and the head.

    The last stage runs again, on these rows of what entered it, in float32 and eagerly (``forward`` bypasses a
    compiled call), with BatchNorm on the rows' own statistics and its running ones left alone. Only this second run
    is differentiated twice; from what entered it the graph goes on to the earlier layers.
    """
    stage, params = model.backbone.last_stage, last_stage_parameters(model)
    with torch.autocast(passes[0].logits.device.type, enabled=False), frozen_statistics(stage):
        losses = []
        for p in passes:
            assert p.entering is not None
            with sdpa_kernel(SDPBackend.MATH):
                features = stage.forward(_cast(p.entering, params[0].dtype))
            losses.append(p.loss(criterion, at_least_float32(model.head.forward(features))))
        return gradient_variance(losses, params, passes[0].processes)


@dataclass
class Named:
    """The parameters whose names match one of the patterns, by double backward through the passes' own graphs."""

    patterns: list[str]

    def __call__(self, model: Network, criterion: Criterion, passes: Sequence[Pass]) -> Tensor:
        return gradient_variance([p.loss(criterion) for p in passes], self.select(model), passes[0].processes)

    def select(self, model: Network) -> list[nn.Parameter]:
        """The trainable parameters that match; a ValueError with some names where none does."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        found = [p for name, p in named if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)]
        if not found:
            ends = ", ".join(name for name, _ in (named[0], named[-1]))
            raise ValueError(f"layers={self.patterns} match none of the model's {len(named)} parameters ({ends}, …)")
        return found


def head_parameters(model: Network) -> list[nn.Parameter]:
    """The trainable parameters of the last layer."""
    _require_parts(model)
    if not (params := _trainable(model.head)):
        raise ValueError("the model's head has no trainable parameter to compare the gradients of")
    return params


def linear_head_parameters(model: Network) -> list[nn.Parameter]:
    """Likewise, of a linear last layer."""
    if not isinstance(model.head, nn.Linear):
        raise ValueError(f"per_sample needs a linear last layer, not {type(model.head).__name__}")
    return head_parameters(model)


def last_stage_parameters(model: Network) -> list[nn.Parameter]:
    """The trainable parameters of the last stage and the head."""
    head = head_parameters(model)
    if not (stage := _trainable(getattr(model.backbone, "last_stage", nn.Identity()))):
        raise ValueError("this network does not say where its last stage begins: give layers=[name patterns] instead")
    return stage + head


@contextmanager
def frozen_statistics(model: Network) -> Iterator[None]:
    """BatchNorm normalises with the batch's statistics as in training, but its running ones do not move."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _require_parts(model: Network) -> None:
    if not hasattr(model, "head") or not hasattr(model, "backbone"):
        name = type(model).__name__
        raise ValueError(
            f"{name} has no .backbone and .head: wrap it in a SplitNetwork, or give layers=[name patterns]"
        )


def _cast(x: View, dtype: torch.dtype) -> View:
    """To a parameter's dtype; among several tensors the integers are indices and stay."""
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in x) if isinstance(x, tuple) else x.to(dtype)


def _is_linear(model: Network, passes: Sequence[Pass]) -> bool:
    return isinstance(model.head, nn.Linear) and all(f.ndim == 2 for f in _features(passes))


def _fullest(passes: Sequence[Pass]) -> Share | None:
    """The share with the most rows, which those of the other views fit into."""
    shares = [p.share for p in passes if p.share]
    return max(shares, key=lambda share: share.total) if shares else None


def _features(passes: Sequence[Pass]) -> list[Tensor]:
    return [p.features for p in passes if p.features is not None]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
