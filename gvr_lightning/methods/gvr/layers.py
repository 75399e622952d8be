"""Which layers a gradient-variance penalty compares: how a view passes, of which parameters, and how they are compared.

A subset of the batch is a choice of a view's rows, so subsampling costs no forward pass.
"""

import fnmatch
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gvr_lightning.methods.gvr.linear import (
    features,
    has_bias,
    is_linear,
    last_layer,
    require_linear,
    require_rows,
)
from gvr_lightning.methods.gvr.variance import gradient_variance, last_layer_variance, per_sample_variance
from gvr_lightning.methods.last_layer import by_last_layer, candidates, unwrapped
from gvr_lightning.methods.passes import (
    Input,
    Network,
    Pass,
    Through,
    at_least_float32,
    by_head,
    by_stage,
    frozen_statistics,
    has_parts,
    require_parts,
    twice_differentiable,
)
from gvr_lightning.methods.view import View


class Layers(Protocol):
    """A choice of layers."""

    @property
    def through(self) -> Through:
        """How a view passes through the network, and what the pass keeps."""

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """Those that are compared; a ValueError for a model that has none."""

    def __call__(self, model: Network, views: Sequence[View]) -> Tensor:
        """The penalty, a scalar."""


class Head:
    """The last layer: closed form if it is linear, else double backward through it alone.

    Args:
        head: the layer, or its name in the network; None: it is found.
    """

    def __init__(self, head: str | nn.Module | None = None) -> None:
        self.head = head

    def through(self, model: Network, x: Input) -> Pass:
        """A pass that keeps what enters the last layer."""
        return by_head(model, x) if self._by_parts(model) else by_last_layer(model, x, candidates(model, self.head))

    def layer(self, model: Network) -> nn.Module:
        """The last layer, as far as it is known without a pass."""
        layer: nn.Module = model.head if self._by_parts(model) else candidates(model, self.head)[-1]
        return layer

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """Its trainable parameters."""
        return _of_head(self.layer(model))

    def _by_parts(self, model: Network) -> bool:
        return self.head is None and has_parts(model)

    def __call__(self, model: Network, views: Sequence[View]) -> Tensor:
        """See :class:`Layers`."""
        losses, head = [v.loss for v in views], last_layer(views)
        if not is_linear(head, views):
            return gradient_variance(losses, _of_head(head))
        most = max(v.most for v in views)
        return last_layer_variance(losses, [v.logits for v in views], features(views), has_bias(head), most)


class HeadPerSample(Head):
    """The last layer, each sample for itself."""

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """Likewise, of a linear last layer."""
        params = super().parameters(model)
        require_linear(self.layer(model), "per_sample")
        return params

    def __call__(self, model: Network, views: Sequence[View]) -> Tensor:
        """See :class:`Layers`."""
        head = last_layer(views)
        require_rows(head, views, "per_sample")
        logits, targets = [v.logits for v in views], [v.target for v in views]
        criterion = views[0].batch.criterion
        return views[0].mean(per_sample_variance(criterion, logits, features(views), targets, has_bias(head)))


class LastStage:
    """The last stage and the head.

    The last stage runs again, on these rows of what entered it, in float32 and eagerly (``forward`` bypasses a
    compiled call), with BatchNorm on the rows' own statistics and its running ones left alone. Only this second run
    is differentiated twice; from what entered it the graph goes on to the earlier layers.
    """

    through: Through = staticmethod(by_stage)

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """The trainable parameters of the last stage and the head."""
        require_parts(model)
        head = _of_head(model.head)
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
    """The parameters that some names or patterns mean, by double backward through the passes' own graphs.

    Args:
        patterns: of the names of parameters, or of modules, whose parameters are meant.
    """

    through: Through = staticmethod(twice_differentiable)

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = list(patterns)

    def parameters(self, model: Network) -> list[nn.Parameter]:
        """The trainable parameters that match; a ValueError with some names where none does."""
        named = [(name, p) for name, p in unwrapped(model).named_parameters() if p.requires_grad]
        patterns = [pattern + end for pattern in self.patterns for end in ("", ".*")]
        found = [p for name, p in named if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
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


def _of_head(head: nn.Module) -> list[nn.Parameter]:
    if not (params := _trainable(head)):
        raise ValueError("the model's head has no trainable parameter to compare the gradients of")
    return params


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
