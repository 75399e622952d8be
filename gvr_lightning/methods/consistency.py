"""Consistency: the views' predicted distributions are pulled together."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from gvr_lightning.methods.passes import at_least_float32
from gvr_lightning.methods.penalty import Penalty
from gvr_lightning.methods.view import View


class Consistency(Penalty):
    """alpha * (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2 between the views' class probabilities, as GVR's control.

    It pulls the views' outputs together where GVR does their gradients, for as many images. Gradients go through both
    sides, if nothing else is said. Of more than two views it is the mean over all pairs; any network that gives logits
    (B, C, ...) will do.
    Source: R-Drop (Liang et al. 2021, arXiv 2106.14448), whose two views are two dropout masks.

    Args:
        alpha: weight of the penalty; not comparable with GVR's.
        detach: the first view is a target, such as a weak view that a strong one is to follow: no gradient goes
            through its pass.

    Raises:
        ValueError: for an alpha out of range.
    """

    fewest = 2
    needs_classes = True

    def __init__(self, alpha: float = 0.01, detach: bool = False) -> None:
        super().__init__(alpha)
        self.detach = detach

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """The divergence, a scalar."""
        logits = [v.logits for v in views]
        if self.detach:
            logits[0] = logits[0].detach()
        return views[0].mean(symmetric_kl(logits))


def symmetric_kl(logits: Sequence[Tensor]) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2, averaged over rows and pairs of views: a scalar, float32 at least.

    As the sum over classes of (p - q) (log p - log q) / 2: no term is negative, so nothing cancels between them.

    Args:
        logits: V >= 2 tensors (B, C, ...), not normalised.
    """
    with torch.autocast(logits[0].device.type, enabled=False):
        logs = [at_least_float32(z).log_softmax(1) for z in logits]
        terms = [((p.exp() - q.exp()) * (p - q)).sum(1).mean() for p, q in combinations(logs, 2)]
        return torch.stack(terms).mean() / 2
