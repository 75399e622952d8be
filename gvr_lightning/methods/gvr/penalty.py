"""GVR as configured objects: the model and the views in, the regularized loss out."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gvr_lightning.methods.gvr.layers import Head, HeadPerSample, LastStage, Layers, Named
from gvr_lightning.methods.gvr.variance import gradient_variance
from gvr_lightning.methods.passes import Input, forward, frozen_statistics, twice_differentiable, whole
from gvr_lightning.methods.penalty import Penalty, RegularizedLoss
from gvr_lightning.methods.view import GlobalBatch, View

LAYERS: dict[str, Callable[[], Layers]] = {"last_stage": LastStage, "all": lambda: Named(["*"])}


class GradientVariance(Penalty):
    """GVR: alpha * ||g_1 - g_2||^2 between the views' gradients of chosen layers.

    In any loop, for any network whose output is a tensor or has ``.logits``, compiled or not::

        gvr = GradientVariance(alpha=0.01)
        loss = gvr(model, criterion, (view1, view2), target)
        loss.total.backward()

    Args:
        alpha: weight of the penalty. It does not carry over from one choice of layers to another.
        layers: ``"head"``, the last layer, in closed form where it is linear; ``"last_stage"``, the last stage and the
            head: ``model.backbone.last_stage`` alone runs again on the subset's rows, in float32, and it alone is
            differentiated twice; ``"all"``; or names of modules (``"fc"``, ``["layer4", "fc"]``) or patterns over
            ``named_parameters()`` (``["layer4.*.weight"]``).
        subset: rows of the batch that the penalty looks at, None for all. No extra pass through the network.
        shared: whether the views share the subset's rows, or each draws its own.
        per_sample: mean of each sample's own penalty, instead of the penalty of the batch's mean gradient; head only.
        split: one view is given, and each "view" is a random half of its rows, so a step costs an SGD step.
        head: the last layer, or its name, for ``layers="head"``; None: it is found (``.head``, ``get_classifier()``,
            ``.fc``, ``.classifier``, else the last ``nn.Linear`` that runs).

    Raises:
        ValueError: for settings out of range or that exclude each other.
    """

    fewest = 2
    with_one_view = "gvr_split"
    double_backward = True
    varies = {  # noqa: RUF012
        ("split", True): {"fewest": 1, "most": 1},
        ("layers", "head"): {"double_backward": False},
        ("layers", "last_stage"): {"double_backward": False},
    }

    def __init__(
        self,
        alpha: float = 0.01,
        layers: str | Sequence[str] = "head",
        subset: int | None = None,
        shared: bool = False,
        per_sample: bool = False,
        split: bool = False,
        head: str | nn.Module | None = None,
    ) -> None:
        super().__init__(alpha)
        _check_subset(subset)
        if head is not None and layers != "head":
            raise ValueError(f"head is the last layer of layers='head', not of layers={layers!r}")
        if per_sample and (layers != "head" or split or (subset is not None and not shared)):
            raise ValueError(
                "per_sample compares a sample with itself: it needs layers='head', shared rows and no split"
            )
        self.subset, self.shared, self.split = subset, shared and not split, split
        if layers == "head":
            self.layers: Layers = HeadPerSample(head) if per_sample else Head(head)
        else:
            names = [layers] if isinstance(layers, str) else layers
            self.layers = LAYERS[layers]() if isinstance(layers, str) and layers in LAYERS else Named(names)
        self.through = self.layers.through
        self.vary(split=split, layers=layers)

    def trained(self, views: Sequence[View]) -> Sequence[View]:
        """The views, or the halves of one."""
        return views[0].halves() if self.split else views

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """||g_1 - g_2||^2 of the chosen layers and rows, averaged over the pairs of views: a scalar."""
        if len(views) < 2:  # a last batch of one row has no halves
            return torch.zeros_like(views[0].loss)
        if self.subset is not None:
            views = [v.sample(self.subset, like=views[0] if self.shared else None) for v in views]
        return self.layers(model, views)

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Those whose gradients are compared."""
        return self.layers.parameters(model)

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError for a model without the layers that are to be compared."""
        self.layers.parameters(model)


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

    fewest = 2
    with_one_view = "gvr_split"
    double_backward = True

    def __init__(self, alpha: float = 0.01, subset: int = 32) -> None:
        super().__init__(alpha)
        _check_subset(subset)
        self.subset, self.layers = subset, LastStage()

    def regularized(self, model: nn.Module, batch: GlobalBatch) -> RegularizedLoss:
        """Passes of the subset, then of all rows; ``model`` says where its last stage begins."""
        with frozen_statistics(model):
            few = batch.views(model, twice_differentiable, batch.orders[0][: self.subset])
            views = batch.views(model, whole)
        return RegularizedLoss.of(views, self.penalty(model, few), self.alpha)

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """||g_1 - g_2||^2 by double backward through the whole network: a scalar."""
        return gradient_variance([v.loss for v in views], self.layers.parameters(model))

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError for a model that does not say where its last stage begins."""
        self.layers.parameters(model)

    @torch.no_grad()
    def after_step(self, model: nn.Module, views: Sequence[Input]) -> None:
        """The pass that moves BatchNorm's running statistics, with the weights after the update."""
        forward(model, views[0])


def _check_subset(subset: int | None) -> None:
    if subset is not None and subset < 1:
        raise ValueError(f"subset must be a number of rows >= 1, got {subset}")
