"""The Jensen-Shannon divergence of what a network says of a sample's views: AugMix's loss."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gvr_lightning.methods.passes import at_least_float32
from gvr_lightning.methods.penalty import Penalty, RegularizedLoss
from gvr_lightning.methods.view import GlobalBatch, View


class JensenShannon(Penalty):
    """The first view's loss + alpha * JS(p_1, ..., p_V) of all views' class probabilities.

    The first view is the clean one, the others are augmented: of them the loss is not taken. Gradients go through all
    views. Source: AugMix (Hendrycks et al. 2020, arXiv 1912.02781), with three views and alpha = 12.

    Args:
        alpha: weight of the penalty.

    Raises:
        ValueError: for an alpha out of range.
    """

    fewest = 2
    needs_classes = True

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """The divergence, a scalar."""
        return views[0].mean(jensen_shannon([v.logits for v in views]))

    def regularized(self, model: nn.Module, batch: GlobalBatch) -> RegularizedLoss:
        """The first view's loss alone."""
        views = batch.views(model, self.through)
        return RegularizedLoss.of(views[:1], self.penalty(model, views), self.alpha)


def jensen_shannon(logits: Sequence[Tensor]) -> Tensor:
    """The mean over views of KL(p_v || their mean), averaged over rows: a scalar, float32 at least.

    The mean's logarithm is taken of the logarithms, so no probability is too small for it.

    Args:
        logits: V >= 2 tensors (B, C, ...), not normalised.
    """
    with torch.autocast(logits[0].device.type, enabled=False):
        logs = torch.stack([at_least_float32(z).log_softmax(1) for z in logits])
        mean = logs.logsumexp(0) - math.log(len(logits))
        return (logs.exp() * (logs - mean)).sum(2).mean()
