"""Normalised GVR: how far the views' gradients are apart, relative to their size."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from gvr_lightning.distributed.batch import over_batch
from gvr_lightning.methods.gvr.closed_form import ClosedForm
from gvr_lightning.methods.gvr.linear import features, has_bias, last_layer
from gvr_lightning.methods.gvr.outer import outer_distance, outer_norm, sum_norm
from gvr_lightning.methods.gvr.variance import last_layer_variance
from gvr_lightning.methods.view import View


class NormalisedGradientVariance(ClosedForm):
    """alpha * mean_i ||g_1i - g_2i||^2 / (||g_1i||^2 + ||g_2i||^2 + eps), with a sample's own gradients g_1i and g_2i.

    The denominator is a constant of the update: no gradient goes through it. The penalty is at most 2, whatever the
    scale of features and weights, so an alpha means the same for every network; and no scale makes it smaller, as
    h -> s h, W -> W / s does GVR. Of more than two views both parts are means over the pairs.

    Args:
        alpha: weight of the penalty.
        whole_batch: ||g_1 - g_2||^2 / (||g_1||^2 + ||g_2||^2 + eps) with the batch's mean gradients.
        eps: added to the denominator: gradients far below its root count as none.
        head: as in :class:`ClosedForm`.

    Raises:
        ValueError: for settings out of range.
    """

    fewest = 2
    with_one_view = "gvr_one_view"

    def __init__(
        self,
        alpha: float = 0.01,
        whole_batch: bool = False,
        eps: float = 1e-8,
        head: str | nn.Module | None = None,
    ) -> None:
        super().__init__(alpha, head)
        if not 0 < eps < float("inf"):
            raise ValueError(f"eps must be a finite number > 0, got {eps}")
        self.whole_batch, self.eps = whole_batch, eps

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """A scalar from 0 to 2."""
        with torch.autocast(views[0].logits.device.type, enabled=False):
            h = self.features(views)
            if not self.whole_batch:
                return views[0].mean(relative_distance(self.residuals(views), h, self.eps))
            losses, logits = [v.loss for v in views], [v.logits for v in views]
            most = max(v.most for v in views)
            distance = last_layer_variance(losses, logits, features(views), has_bias(last_layer(views)), most)
            return distance / (mean_size(losses, logits, h, most) + self.eps)


def relative_distance(d: Sequence[Tensor], h: Sequence[Tensor], eps: float) -> Tensor:
    """||g_1i - g_2i||^2 / (||g_1i||^2 + ||g_2i||^2 + eps) for every row i, (B,), with g_vi = d_vi h_vi^T.

    Args:
        d: V tensors (B, C), gradients of the rows' losses with respect to the logits; row i is one sample in each.
        h: V tensors (B, D), features.
        eps: added to the denominator, which is a constant.
    """
    pairs = [outer_distance(d[u], h[u], d[v], h[v]) for u, v in combinations(range(len(d)), 2)]
    sizes = [outer_norm(dv.detach(), hv.detach()) for dv, hv in zip(d, h, strict=True)]
    return torch.stack(pairs).mean(0) / (2 * torch.stack(sizes).mean(0) + eps)


def mean_size(losses: Sequence[Tensor], logits: Sequence[Tensor], h: Sequence[Tensor], most: int) -> Tensor:
    """||g_1||^2 + ||g_2||^2 of the last layer, without a graph; of more views twice the mean.

    Args:
        losses: V scalars, each a function of its own logits.
        logits: V tensors (B, C).
        h: V tensors (B, D), features.
        most: rows of a view that any process may have.
    """
    d = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss, z in zip(losses, logits, strict=True)]
    sizes = [sum_norm(dv, hv.detach(), most) for dv, hv in zip(d, h, strict=True)]
    return over_batch([2 * torch.stack(sizes).mean()])[0]
