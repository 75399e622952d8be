"""GVR as configured objects: the model and the views in, the regularized loss out. Imports torch only."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gvr_lightning import scopes
from gvr_lightning.distributed.shards import Shard, even_shard, gather_rows
from gvr_lightning.passes import (
    Through,
    View,
    by_head,
    by_stage,
    forward,
    make_passes,
    take,
    twice_differentiable,
    whole,
)
from gvr_lightning.penalty import Penalty, RegularizedLoss, Target, with_targets
from gvr_lightning.scopes import Compare, Parameters
from gvr_lightning.variance import Criterion, gradient_variance

# layers -> (how a view passes through the network, how its gradients are compared, of which parameters)
LAYERS: dict[str, tuple[Through, Compare, Parameters]] = {
    "head": (by_head, scopes.head, scopes.head_parameters),
    "last_stage": (by_stage, scopes.last_stage, scopes.last_stage_parameters),
}


class GradientVariance(Penalty):
    """GVR: alpha * ||g_1 - g_2||^2 between the views' gradients of chosen layers.

    In any loop, for a model with ``.backbone`` and ``.head``::

        gvr = GradientVariance(alpha=0.01)
        loss = gvr(model, criterion, (view1, view2), target)
        loss.total.backward()

    Args:
        alpha: weight of the penalty. It does not carry over from one choice of layers to another.
        layers: ``"head"``, the last layer, in closed form where it is linear; ``"last_stage"``, the last stage and the
            head: ``model.backbone.last_stage`` alone runs again on the subset's rows, in float32, and it alone is
            differentiated twice; ``"all"``; or name patterns (``["layer4.*", "fc.*"]``) over ``named_parameters()``.
        subset: rows of the batch that the penalty looks at, None for all. No extra pass through the network.
        shared: whether the views share the subset's rows, or each draws its own.
        per_sample: mean of each sample's own penalty, instead of the penalty of the batch's mean gradient; head only.
        split: one view is given, and each "view" is a random half of its rows, so a step costs an SGD step.

    Raises:
        ValueError: for settings out of range or that exclude each other.
    """

    def __init__(
        self,
        alpha: float = 0.01,
        layers: str | Sequence[str] = "head",
        subset: int | None = None,
        shared: bool = False,
        per_sample: bool = False,
        split: bool = False,
    ) -> None:
        _check(alpha, subset)
        if isinstance(layers, str) and layers not in (*LAYERS, "all"):
            raise ValueError(f"layers must be {', '.join(LAYERS)}, all, or a list of name patterns, got {layers!r}")
        if per_sample and (layers != "head" or split or (subset is not None and not shared)):
            raise ValueError(
                "per_sample compares a sample with itself: it needs layers='head', shared rows and no split"
            )
        self.alpha, self.subset, self.shared, self.split = alpha, subset, shared, split
        named = scopes.Named(["*"] if isinstance(layers, str) else list(layers))
        by_name = (twice_differentiable, named, named.select)
        self._through, self._compare, self.parameters = LAYERS.get(str(layers), by_name)
        if per_sample:
            self._compare, self.parameters = scopes.head_per_sample, scopes.linear_head_parameters
        self.double_backward = self._through is twice_differentiable

    def __call__(
        self,
        model: nn.Module,
        criterion: Criterion,
        views: Sequence[View],
        target: Target,
        keys: Tensor | None = None,
        shard: Shard | None = None,
    ) -> RegularizedLoss:
        """See :meth:`Penalty.__call__`; two views or more, or one if ``split``.

        Raises:
            ValueError: for a number of views that does not fit ``split``, or of targets that is not theirs.
        """
        if (len(views) == 1) != self.split:
            raise ValueError(f"got {len(views)} view(s): give two or more, or one with split=True")
        pairs = with_targets(views, target)
        shard = shard or even_shard(len(pairs[0][1]))
        passes = sources = make_passes(self._through, model, pairs, shard.share)
        orders = self._orders(len(views), pairs[0][1], keys, shard)
        if self.split:
            sources = passes * len(orders)
            passes = [p.rows(*shard.choose(half)) for p, half in zip(sources, orders, strict=True)]
        losses = [p.loss(criterion) for p in passes]
        if len(passes) < 2:  # a last batch of one row has no halves
            penalty = torch.zeros_like(losses[0])
        else:
            compared = passes
            if self.subset is not None:
                few = [order[: self.subset] for order in orders]
                compared = [p.rows(*shard.choose(rows)) for p, rows in zip(sources, few, strict=True)]
            penalty = self._compare(model, criterion, compared)
        return RegularizedLoss.of(passes, losses, penalty, self.alpha)

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError for a model without the layers that are to be compared."""
        self.parameters(model)

    def _orders(self, views: int, target: Tensor, keys: Tensor | None, shard: Shard) -> Sequence[Tensor]:
        """The global batch's rows in random order, for each view; the halves of one order if ``split``."""
        if self.subset is None and not self.split:
            return ()
        order = (_draw(views, target, shard) if keys is None else keys).argsort(dim=1)
        if self.split:
            return [half for half in order[0].tensor_split(2) if len(half)]
        return [order[0 if self.shared else v] for v in range(views)]


class PublishedGradientVariance(Penalty):
    """GVR as the published code behaves, for comparison with its figures.

    The last stage and the head are compared on one subset of 32 rows that the views share, by passes of their own
    through the whole network (BatchNorm there sees those rows alone). BatchNorm's running statistics stand still in all
    four passes and move only in a fifth: the pass over the first view, after the update, that measured accuracy.

    Args:
        alpha: weight of the penalty; not comparable with that of :class:`GradientVariance`.
        subset: rows that the penalty looks at.

    Raises:
        ValueError: for settings out of range.
    """

    double_backward = True

    def __init__(self, alpha: float = 0.01, subset: int = 32) -> None:
        _check(alpha, subset)
        self.alpha, self.subset = alpha, subset

    def __call__(
        self,
        model: nn.Module,
        criterion: Criterion,
        views: Sequence[View],
        target: Target,
        keys: Tensor | None = None,
        shard: Shard | None = None,
    ) -> RegularizedLoss:
        """See :meth:`Penalty.__call__`; ``model`` says where its last stage begins."""
        pairs = with_targets(views, target)
        shard = shard or even_shard(len(pairs[0][1]))
        keys = _draw(1, pairs[0][1], shard) if keys is None else keys
        rows, share = shard.choose(keys[0].argsort()[: self.subset])
        few = [(take(view, rows[: share.rows]), y[rows[: share.rows]]) for view, y in pairs]
        with scopes.frozen_statistics(model):
            small = make_passes(twice_differentiable, model, few, share)
            passes = make_passes(whole, model, pairs, shard.share)
        losses = [p.loss(criterion) for p in small]
        penalty = gradient_variance(losses, scopes.last_stage_parameters(model), shard.processes)
        return RegularizedLoss.of(passes, [p.loss(criterion) for p in passes], penalty, self.alpha)

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError for a model that does not say where its last stage begins."""
        scopes.last_stage_parameters(model)

    @torch.no_grad()
    def after_step(self, model: nn.Module, views: Sequence[View]) -> None:
        """The pass that moves BatchNorm's running statistics, with the weights after the update."""
        forward(model, views[0])


def _draw(views: int, target: Tensor, shard: Shard) -> Tensor:
    """Random numbers (V, all rows), each process drawing those of its own rows."""
    keys = torch.rand(views, len(target), device=target.device)
    return keys if shard.processes == 1 else gather_rows(keys.T).T


def _check(alpha: float, subset: int | None) -> None:
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha must be a finite number >= 0, got {alpha}")
    if subset is not None and subset < 1:
        raise ValueError(f"subset must be a number of rows >= 1, got {subset}")
