"""Which layers a gradient-variance penalty compares: how a view passes, of which parameters, and how they are compared.

A subset of the batch is a choice of a view's rows, so subsampling costs no forward pass.
"""

import fnmatch
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gvr_lightning.methods.gvr.variance import gradient_variance, last_layer_variance, per_sample_variance
from gvr_lightning.methods.passes import (
    Input,
    Network,
    Through,
    at_least_float32,
    by_head,
    by_stage,
    frozen_statistics,
    require_parts,
    twice_differentiable,
)
from gvr_lightning.methods.view import View


class Layers(Protocol):
    """A choice of layers."""

    through: Through  # how a view passes through the network, and what the pass keeps

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """Those that are compared; a ValueError for a model that has none."""

    def __call__(self, model: Network, views: Sequence[View]) -> Tensor:
        """The penalty, a scalar."""


class Head:
    """The last layer: closed form if it is linear, else double backward through it alone."""

    through: Through = staticmethod(by_head)

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """The trainable parameters of the last layer."""
        require_parts(model)
        if not (params := _trainable(model.head)):
            raise ValueError("the model's head has no trainable parameter to compare the gradients of")
        return params

    def __call__(self, model: Network, views: Sequence[View]) -> Tensor:
        """See :class:`Layers`."""
        losses = [v.loss for v in views]
        if not _is_linear(model, views):
            return gradient_variance(losses, self.parameters(model))
        most = max(v.most for v in views)
        return last_layer_variance(losses, [v.logits for v in views], _features(views), _has_bias(model), most)


class HeadPerSample(Head):
    """The last layer, each sample for itself."""

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """Likewise, of a linear last layer."""
        params = super().parameters(model)
        if not isinstance(model.head, nn.Linear):
            raise ValueError(f"per_sample needs a linear last layer, not {type(model.head).__name__}")
        if not model.head.weight.requires_grad:
            raise ValueError("per_sample needs a last layer whose weight is trained, not its bias alone")
        return params

    def __call__(self, model: Network, views: Sequence[View]) -> Tensor:
        """See :class:`Layers`."""
        if not _is_linear(model, views):
            name = type(model.head).__name__
            raise ValueError(f"per_sample needs a linear last layer over (B, D) features, not {name}")
        logits, targets = [v.logits for v in views], [v.target for v in views]
        criterion = views[0].batch.criterion
        return views[0].mean(per_sample_variance(criterion, logits, _features(views), targets, _has_bias(model)))


class LastStage(Head):
    """The last stage and the head.

    The last stage runs again, on these rows of what entered it, in float32 and eagerly (``forward`` bypasses a
    compiled call), with BatchNorm on the rows' own statistics and its running ones left alone. Only this second run
    is differentiated twice; from what entered it the graph goes on to the earlier layers.
    """

    through: Through = staticmethod(by_stage)

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """The trainable parameters of the last stage and the head."""
        head = super().parameters(model)
        last = getattr(model.backbone, "last_stage", nn.Identity())
        if not (stage := _trainable(last)):
            if any(True for _ in last.parameters()):
                raise ValueError(
                    "every parameter of the network's last stage is frozen: use layers=head, or train some"
                )
            raise ValueError(
                "this network does not say where its last stage begins: give layers=[name patterns] instead"
            )
        return stage + head

    def __call__(self, model: Network, views: Sequence[View]) -> Tensor:
        """See :class:`Layers`."""
        stage, params = model.backbone.last_stage, self.parameters(model)
        with torch.autocast(views[0].logits.device.type, enabled=False), frozen_statistics(stage):
            losses = []
            for v in views:
                assert v.entering is not None
                with sdpa_kernel(SDPBackend.MATH), v.uncounted(stage):
                    logits = model.head.forward(stage.forward(_cast(v.entering, params[0].dtype)))
                losses.append(v.loss_of(at_least_float32(logits)))
            return gradient_variance(losses, params)


class Named:
    """The parameters whose names match one of the patterns, by double backward through the passes' own graphs."""

    through: Through = staticmethod(twice_differentiable)

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = list(patterns)

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """The trainable parameters that match; a ValueError with some names where none does."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        found = [p for name, p in named if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)]
        if not found:
            ends = ", ".join(name for name, _ in (named[0], named[-1]))
            raise ValueError(f"layers={self.patterns} match none of the model's {len(named)} parameters ({ends}, …)")
        return found

    def __call__(self, model: Network, views: Sequence[View]) -> Tensor:
        """See :class:`Layers`."""
        return gradient_variance([v.loss for v in views], self.parameters(model))


def _cast(x: Input, dtype: torch.dtype) -> Input:
    """To a parameter's dtype; among several tensors the integers are indices and stay."""
    return tuple(t.to(dtype) if t.is_floating_point() else t for t in x) if isinstance(x, tuple) else x.to(dtype)


def _is_linear(model: Network, views: Sequence[View]) -> bool:
    """Whether the closed form is that of the last layer's trainable parameters."""
    trained = isinstance(model.head, nn.Linear) and model.head.weight.requires_grad
    return trained and all(f.ndim == 2 for f in _features(views))


def _has_bias(model: Network) -> bool:
    return model.head.bias is not None and model.head.bias.requires_grad


def _features(views: Sequence[View]) -> list[Tensor]:
    return [v.features for v in views if v.features is not None]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
