"""What a penalty is, what it returns, and the one that adds nothing. Imports torch only."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gvr_lightning.distributed.shards import Shard, even_shard
from gvr_lightning.passes import Pass, View, make_passes, whole
from gvr_lightning.variance import Criterion

Target = Tensor | Sequence[Tensor]  # of all views, or one for each


@dataclass
class RegularizedLoss:
    """What a penalty returns: V scalar losses, the penalty before alpha, and each view's logits, targets and rows.

    Of several processes each has losses and a penalty whose means over the processes are those of the global batch,
    and ``weights``, which make means over a view's rows here such that theirs are, too.
    """

    losses: list[Tensor]
    penalty: Tensor
    alpha: float
    logits: list[Tensor]
    targets: list[Tensor]
    weights: list[float]
    rows: list[Tensor | None]  # of the batch, that a view's logits are of; None: all, in order

    @classmethod
    def of(cls, passes: Sequence[Pass], losses: list[Tensor], penalty: Tensor, alpha: float) -> "RegularizedLoss":
        """From the views' passes through the network."""
        logits, targets, weights, rows = zip(*((p.logits, p.target, p.weight, p.index) for p in passes), strict=True)
        return cls(losses, penalty, alpha, list(logits), list(targets), list(weights), list(rows))

    @property
    def weighted(self) -> Tensor:
        """Alpha * penalty; exactly zero for alpha = 0, also where the penalty is not finite."""
        return self.alpha * self.penalty if self.alpha else torch.zeros_like(self.penalty)

    @property
    def total(self) -> Tensor:
        """L_1 + ... + L_V + alpha * penalty: what to call ``backward()`` on."""
        return torch.stack(self.losses).sum() + self.weighted


class Penalty(ABC):
    """What a task asks of a penalty.

    It makes the forward passes itself, since which rows and which layers it needs decides what is cheapest.
    """

    alpha: float = 0.0
    double_backward: bool = (
        False  # whether the whole network may be differentiated twice, which rules out torch.compile
    )

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        criterion: Criterion,
        views: Sequence[View],
        target: Target,
        keys: Tensor | None = None,
        shard: Shard | None = None,
    ) -> RegularizedLoss:
        """Forward passes, losses and penalty.

        Args:
            model: has ``.backbone`` and ``.head`` (without a penalty, or for name patterns, any module will do).
            criterion: (logits (B, C), target (B, ...)) -> scalar; over several processes it must be a mean.
            views: V inputs of the same samples: tensors (B, ...), or tuples of such where the network takes several.
            target: labels (B, ...), those of every view; or a sequence of V, each view's own.
            keys: random numbers (V, all rows); the rows with the smallest make a subset. Default: torch's generator.
            shard: which rows of the global batch these are. Default: where there is a process group, every process has
                as many; else they are all.
        """

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most fit any model)
        """Raise a ValueError for a model that the penalty does not fit."""

    def after_step(self, model: nn.Module, views: Sequence[View]) -> None:  # noqa: B027 (most have nothing to do)
        """What is left to do once the optimizer has stepped."""


class NoPenalty(Penalty):
    """The null object: the views' losses alone. With one view plain training, with two the control for GVR."""

    def __call__(
        self,
        model: nn.Module,
        criterion: Criterion,
        views: Sequence[View],
        target: Target,
        keys: Tensor | None = None,
        shard: Shard | None = None,
    ) -> RegularizedLoss:
        """The views' losses, with a penalty of zero."""
        pairs = with_targets(views, target)
        passes = make_passes(whole, model, pairs, (shard or even_shard(len(pairs[0][1]))).share)
        losses = [p.loss(criterion) for p in passes]
        return RegularizedLoss.of(passes, losses, torch.zeros_like(losses[0]), self.alpha)


def with_targets(views: Sequence[View], target: Target) -> list[tuple[View, Tensor]]:
    """Each view with its target.

    Raises:
        ValueError: for another number of targets than of views.
    """
    targets = [target] * len(views) if isinstance(target, Tensor) else target
    if len(targets) != len(views):
        raise ValueError(f"got {len(targets)} targets for {len(views)} view(s): give one tensor, or one for each view")
    return list(zip(views, targets, strict=True))
