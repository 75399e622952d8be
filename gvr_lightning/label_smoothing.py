"""Label smoothing as a penalty, so that it stands beside the others. Imports torch only."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gvr_lightning.distributed.shards import Shard
from gvr_lightning.passes import View
from gvr_lightning.penalty import NoPenalty, RegularizedLoss, Target
from gvr_lightning.variance import Criterion, at_least_float32


class LabelSmoothing(NoPenalty):
    """smoothing * (U - L): with the cross-entropy L and U, that to the uniform distribution over the C classes.

    Adds up to (1 - smoothing) L + smoothing U, the loss of Szegedy et al. (2016, arXiv 1512.00567) and of torch's
    ``label_smoothing``; but the loss that is logged stays the plain one. Of several views it is the sum.

    Args:
        smoothing: share of the uniform distribution, in [0, 1).

    Raises:
        ValueError: for a share out of range.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        self.alpha = smoothing

    def __call__(
        self,
        model: nn.Module,
        criterion: Criterion,
        views: Sequence[View],
        target: Target,
        keys: Tensor | None = None,
        shard: Shard | None = None,
    ) -> RegularizedLoss:
        """See :meth:`Penalty.__call__`; any network that gives logits (B, C, ...)."""
        loss = super().__call__(model, criterion, views, target, keys, shard)
        flat = [uniform_cross_entropy(z) * weight for z, weight in zip(loss.logits, loss.weights, strict=True)]
        loss.penalty = torch.stack(flat).sum() - torch.stack(loss.losses).sum()
        return loss


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """The cross-entropy to the uniform distribution, averaged over the rows: a scalar, float32 at least.

    Args:
        logits: (B, C, ...), not normalised.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return -at_least_float32(logits).log_softmax(1).mean()
