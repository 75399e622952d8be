"""Which layers a gradient-variance penalty compares: one function each, (model, criterion, passes) -> scalar.

A pass is what one view's way through the network leaves behind; a subset of the batch is a choice of its rows, so
subsampling costs no forward pass.
"""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from gvr_lightning.distributed.shards import Share
from gvr_lightning.distributed.sync_batchnorm import uncounted
from gvr_lightning.passes import Network, Pass, View, require_parts
from gvr_lightning.variance import (
    Criterion,
    at_least_float32,
    gradient_variance,
    last_layer_variance,
    per_sample_variance,
)

Compare = Callable[[nn.Module, Criterion, Sequence[Pass]], Tensor]
Parameters = Callable[[nn.Module], "list[nn.Parameter]"]


def head(model: Network, criterion: Criterion, passes: Sequence[Pass]) -> Tensor:
    """The last layer: closed form if it is linear, else double backward through it alone."""
    losses = [p.loss(criterion) for p in passes]
    if not _is_linear(model, passes):
        return gradient_variance(losses, head_parameters(model), passes[0].processes)
    logits = [p.logits for p in passes]
    return last_layer_variance(losses, logits, _features(passes), _has_bias(model), _fullest(passes))


def head_per_sample(model: Network, criterion: Criterion, passes: Sequence[Pass]) -> Tensor:
    """The last layer, each sample for itself."""
    if not _is_linear(model, passes):
        raise ValueError(f"per_sample needs a linear last layer over (B, D) features, not {type(model.head).__name__}")
    logits, targets = [p.logits for p in passes], [p.target for p in passes]
    return per_sample_variance(criterion, logits, _features(passes), targets, _has_bias(model), passes[0].weight)


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
            with sdpa_kernel(SDPBackend.MATH), nullcontext() if p.weight else uncounted(stage):
                logits = model.head.forward(stage.forward(_cast(p.entering, params[0].dtype)))
            losses.append(p.loss(criterion, at_least_float32(logits)))
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
    require_parts(model)
    if not (params := _trainable(model.head)):
        raise ValueError("the model's head has no trainable parameter to compare the gradients of")
    return params


def linear_head_parameters(model: Network) -> list[nn.Parameter]:
    """Likewise, of a linear last layer."""
    params = head_parameters(model)
    if not isinstance(model.head, nn.Linear):
        raise ValueError(f"per_sample needs a linear last layer, not {type(model.head).__name__}")
    if not model.head.weight.requires_grad:
        raise ValueError("per_sample needs a last layer whose weight is trained, not its bias alone")
    return params


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


def _cast(x: View, dtype: torch.dtype) -> View:
    """To a parameter's dtype; among several tensors the integers are indices and stay."""
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in x) if isinstance(x, tuple) else x.to(dtype)


def _is_linear(model: Network, passes: Sequence[Pass]) -> bool:
    """Whether the closed form is that of the last layer's trainable parameters."""
    trained = isinstance(model.head, nn.Linear) and model.head.weight.requires_grad
    return trained and all(f.ndim == 2 for f in _features(passes))


def _has_bias(model: Network) -> bool:
    return model.head.bias is not None and model.head.bias.requires_grad


def _fullest(passes: Sequence[Pass]) -> Share | None:
    """The share with the most rows, which those of the other views fit into."""
    shares = [p.share for p in passes if p.share]
    return max(shares, key=lambda share: share.total) if shares else None


def _features(passes: Sequence[Pass]) -> list[Tensor]:
    return [p.features for p in passes if p.features is not None]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
