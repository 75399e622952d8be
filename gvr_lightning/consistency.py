"""Consistency: the views' predicted distributions are pulled together. Imports torch only."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from gvr_lightning.distributed.shards import Shard, even_shard
from gvr_lightning.passes import View, make_passes, whole
from gvr_lightning.penalty import Penalty, RegularizedLoss, Target, with_targets
from gvr_lightning.variance import Criterion, at_least_float32


class Consistency(Penalty):
    """alpha * (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2 between the views' class probabilities, as GVR's control.

    It pulls the views' outputs together where GVR does their gradients, for as many images. Gradients go through both
    sides. Of more than two views it is the mean over all pairs. Source: R-Drop (Liang et al. 2021, arXiv 2106.14448),
    whose two views are two dropout masks.

    Args:
        alpha: weight of the penalty; not comparable with GVR's.

    Raises:
        ValueError: for an alpha out of range.
    """

    def __init__(self, alpha: float = 0.01) -> None:
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha must be a finite number >= 0, got {alpha}")
        self.alpha = alpha

    def __call__(
        self,
        model: nn.Module,
        criterion: Criterion,
        views: Sequence[View],
        target: Target,
        keys: Tensor | None = None,
        shard: Shard | None = None,
    ) -> RegularizedLoss:
        """See :meth:`Penalty.__call__`; any network that gives logits (B, C, ...).

        Raises:
            ValueError: for fewer than two views.
        """
        if len(views) < 2:
            raise ValueError(f"got {len(views)} view(s): give two or more")
        pairs = with_targets(views, target)
        passes = make_passes(whole, model, pairs, (shard or even_shard(len(pairs[0][1]))).share)
        losses = [p.loss(criterion) for p in passes]
        penalty = symmetric_kl([p.logits for p in passes]) * passes[0].weight
        return RegularizedLoss.of(passes, losses, penalty, self.alpha)


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
