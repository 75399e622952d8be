"""GVR of one view: how far the samples' gradients are apart, at the cost of plain training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gvr_lightning.methods.gvr.closed_form import ClosedForm
from gvr_lightning.methods.gvr.label_free import uncertainty
from gvr_lightning.methods.gvr.outer import outer_norm, sum_norm
from gvr_lightning.methods.view import View


class OneViewGradientVariance(ClosedForm):
    """alpha * (1/B) sum_i ||g_i - g||^2: the variance of the samples' gradients g_i round the batch's, exactly.

    `gvr_split` estimates 4 / (B - 1) times as much from two random halves, with noise. Of several views it is the mean.

    Args:
        alpha: weight of the penalty; not comparable with GVR's.
        fisher: instead (1/B) sum_i E_y ||g_i(y)||^2 with y drawn from the prediction: the trace of the last layer's
            Fisher information, which asks for no label.
        head: as in :class:`ClosedForm`.

    Raises:
        ValueError: for an alpha out of range.
    """

    varies = {("fisher", True): {"needs_classes": True}}  # noqa: RUF012

    def __init__(self, alpha: float = 0.01, fisher: bool = False, head: str | nn.Module | None = None) -> None:
        super().__init__(alpha, head)
        self.fisher = fisher
        self.vary(fisher=fisher)

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """The variance or the trace, a scalar."""
        with torch.autocast(views[0].logits.device.type, enabled=False):
            h = self.features(views)
            if self.fisher:
                found = [v.mean(fisher_trace(v.logits.softmax(1), hv)) for v, hv in zip(views, h, strict=True)]
            else:
                rows = zip(views, self.residuals(views), h, strict=True)
                found = [batch_variance(d, hv, v.weight, v.most) for v, d, hv in rows]
            return torch.stack(found).mean()


def batch_variance(d: Tensor, h: Tensor, weight: float = 1.0, most: int | None = None) -> Tensor:
    """(1/B) sum_i ||g_i||^2 - ||(1/B) sum_i g_i||^2 with g_i = d_i h_i^T, over the rows of all processes: a scalar.

    Args:
        d: (B, C), gradients of the rows' losses with respect to the logits, this process's.
        h: (B, D), features, likewise.
        weight: of a mean over the rows here.
        most: rows that any process may have; None: all have as many.

    Returns:
        What has the variance as its mean over the processes.
    """
    return outer_norm(d, h).mean() * weight - sum_norm(d * (weight / len(d)), h, most)


def fisher_trace(p: Tensor, h: Tensor) -> Tensor:
    """E ||(p_i - e_y) h_i^T||^2 over y ~ p_i, for every row i: (1 - ||p_i||^2) ||h_i||^2, (B,).

    Args:
        p: (B, C), probabilities.
        h: (B, D), features.
    """
    return uncertainty(p) * h.square().sum(1)
