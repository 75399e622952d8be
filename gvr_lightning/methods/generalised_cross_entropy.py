"""Generalised cross-entropy as a penalty, so that it stands beside the others: a rival under wrong labels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gvr_lightning.methods.passes import at_least_float32
from gvr_lightning.methods.penalty import Penalty, combined
from gvr_lightning.methods.view import View


class GeneralisedCrossEntropy(Penalty):
    """G - L: with the cross-entropy L and G, the mean of (1 - p^q) / q, with p the probability of a row's label.

    Adds up to G, the loss of Zhang and Sabuncu (2018, arXiv 1805.07836), which pulls less at labels that the network
    finds unlikely; but the loss that is logged stays the plain one. Near q = 0 it is the cross-entropy, at q = 1 the
    mean absolute error. Of several views it is the sum, or the mean, as of their losses. Any network that gives logits
    (B, C, ...) will do.

    Args:
        q: in (0, 1].

    Raises:
        ValueError: for a q out of range.
    """

    needs_classes = True
    replaces_loss = True

    def __init__(self, q: float = 0.7) -> None:
        if not 0 < q <= 1:
            raise ValueError(f"q must be in (0, 1], got {q}")
        super().__init__(1.0)
        self.q = q

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """G - L, of the views together."""
        of_views = [v.mean(generalised_cross_entropy(v.logits, v.target, self.q)) for v in views]
        return combined(of_views, self.views_loss) - combined([v.loss for v in views], self.views_loss)


def generalised_cross_entropy(logits: Tensor, target: Tensor, q: float) -> Tensor:
    """(1 - p^q) / q of the labels' probabilities, averaged over the rows: a scalar, float32 at least.

    Args:
        logits: (B, C, ...), not normalised.
        target: labels (B, ...), or probabilities like the logits, which weigh the classes.
        q: in (0, 1].
    """
    with torch.autocast(logits.device.type, enabled=False):
        of_classes = -torch.expm1(q * at_least_float32(logits).log_softmax(1)) / q
        if target.is_floating_point():
            return (of_classes * target).sum(1).mean()
        return of_classes.gather(1, target.unsqueeze(1)).mean()
