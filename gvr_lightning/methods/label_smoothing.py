"""Label smoothing as a penalty, so that it stands beside the others."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gvr_lightning.methods.passes import at_least_float32
from gvr_lightning.methods.penalty import Penalty, combined
from gvr_lightning.methods.view import View


class LabelSmoothing(Penalty):
    """smoothing * (U - L): with the cross-entropy L and U, that to the uniform distribution over the C classes.

    Adds up to (1 - smoothing) L + smoothing U, the loss of Szegedy et al. (2016, arXiv 1512.00567) and of torch's
    ``label_smoothing``; but the loss that is logged stays the plain one. Of several views it is the sum, or
    the mean, as of their losses. Any network that gives logits (B, C, ...) will do.

    Args:
        smoothing: share of the uniform distribution, in [0, 1).

    Raises:
        ValueError: for a share out of range.
    """

    needs_classes = True

    def __init__(self, smoothing: float = 0.1) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
        super().__init__(smoothing)

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """U - L, summed over the views as their losses are."""
        flat = [v.mean(uniform_cross_entropy(v.logits)) for v in views]
        return combined(flat, self.views_loss) - combined([v.loss for v in views], self.views_loss)


def uniform_cross_entropy(logits: Tensor) -> Tensor:
    """The cross-entropy to the uniform distribution, averaged over the rows: a scalar, float32 at least.

    Args:
        logits: (B, C, ...), not normalised.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return -at_least_float32(logits).log_softmax(1).mean()
