"""What a penalty is, what it returns, and the one that adds nothing."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from gvr_lightning.distributed.batch import Shard
from gvr_lightning.methods.once import once
from gvr_lightning.methods.passes import Criterion, Input, Through, whole
from gvr_lightning.methods.view import GlobalBatch, View

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
    views_loss: str = "sum"  # of the views' losses what is minimised: their sum, or their "mean"

    @classmethod
    def of(cls, views: Sequence[View], penalty: Tensor, alpha: float) -> "RegularizedLoss":
        """From the views whose losses are added; what they hold besides is let go."""
        columns = zip(*((v.loss, v.logits, v.target, v.weight, v.index) for v in views), strict=True)
        losses, logits, targets, weights, rows = map(list, columns)
        return cls(losses, penalty, alpha, logits, targets, weights, rows)

    @once
    def weighted(self) -> Tensor:
        """Alpha * penalty; exactly zero for alpha = 0, also where the penalty is not finite."""
        return self.alpha * self.penalty if self.alpha else torch.zeros_like(self.penalty)

    @once
    def total(self) -> Tensor:
        """L_1 + ... + L_V (or their mean) + alpha * penalty: what to call ``backward()`` on."""
        loss = combined(self.losses, self.views_loss)
        return loss + self.weighted if self.alpha else loss


def combined(of_views: Sequence[Tensor], views_loss: str) -> Tensor:
    """The sum of what each view has, or the mean."""
    return mean_of(of_views) if views_loss == "mean" else total_of(of_views)


def total_of(scalars: Sequence[Tensor]) -> Tensor:
    """Their sum."""
    return reduce(torch.add, scalars)


def mean_of(scalars: Sequence[Tensor]) -> Tensor:
    """Their mean; of one, itself."""
    return torch.stack(list(scalars)).mean() if len(scalars) > 1 else scalars[0]


class Penalty(ABC):
    """A term that a batch's views add to their losses: a subclass says what it is, and declares what it needs.

    The declarations are class attributes, which the command line's check reads without importing anything; where a
    setting decides, ``varies`` says for which values: ``{("split", True): {"fewest": 1, "most": 1}}``.

    Args:
        alpha: weight of the penalty.

    Raises:
        ValueError: for an alpha out of range.
    """

    fewest: int = 1  # views that it takes
    most: int | None = None  # None: as many as there are
    with_one_view: str = ""  # the option of the regularizers that does likewise with one
    needs_classes: bool = False  # whether logits have to be those of classes
    hard_labels: bool = False  # whether targets have to be labels, and not shares of classes as of mixed samples
    adds_nothing: bool = False  # whether it is no regularizer, and so a baseline for those that are
    replaces_loss: bool = False  # whether it takes away the criterion's loss and puts its own there
    double_backward: bool = False  # whether the whole network is differentiated twice, which rules out torch.compile
    varies: dict[tuple[str, object], dict[str, object]] = {}  # noqa: RUF012 (a declaration, never written to)

    alpha: float = 0.0
    views_loss: str = "sum"  # as published; "mean": of several views as large as of one
    through: Through = staticmethod(whole)  # how a view passes through the network

    def __init__(self, alpha: float = 0.01) -> None:
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha must be a finite number >= 0, got {alpha}")
        self.alpha = alpha

    def vary(self, **settings: object) -> None:
        """Declare of this object what ``varies`` says of its settings."""
        for (name, value), declared in self.varies.items():
            if settings[name] == value:
                vars(self).update(declared)

    @abstractmethod
    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """The penalty before alpha, a scalar.

        What is a mean over rows goes by ``View.mean``; what is made of a gradient's mean, by ``over_batch``. Both do
        nothing in one process.
        """

    def trained(self, views: Sequence[View]) -> Sequence[View]:
        """The views whose losses are added, and which the penalty gets: those that passed, if nothing else is said."""
        return views

    def regularized(self, model: nn.Module, batch: GlobalBatch) -> RegularizedLoss:
        """Passes, losses and penalty; for a method that has passes of its own."""
        views = self.trained(batch.views(model, self.through))
        return RegularizedLoss.of(views, self.penalty(model, views), self.alpha)

    def __call__(
        self,
        model: nn.Module,
        criterion: Criterion,
        views: Sequence[Input],
        target: Target,
        keys: Tensor | None = None,
        shard: Shard | None = None,
    ) -> RegularizedLoss:
        """The losses of a batch's views, and the penalty.

        Args:
            model: any module whose output is a tensor or has ``.logits``; what a penalty needs besides, it says.
            criterion: (logits (B, C), target (B, ...)) -> scalar; over several processes it must be a mean.
            views: V inputs of the same samples: tensors (B, ...), or tuples of such where the network takes several.
            target: labels (B, ...), those of every view; or a sequence of V, each view's own.
            keys: random numbers (V, all rows); the rows with the smallest make a subset. Default: torch's generator.
            shard: which rows of the global batch these are. Default: where there is a process group, every process has
                as many; else they are all.

        Raises:
            ValueError: for a number of views that the penalty does not take, or of targets that is not theirs.
        """
        if isinstance(views, Tensor):
            raise ValueError("views is one tensor: give a list of them, such as [view1, view2]")
        if len(views) < self.fewest or (self.most is not None and len(views) > self.most):
            wanted = {1: "one", 2: "two"}.get(self.fewest, self.fewest)
            raise ValueError(f"got {len(views)} view(s): give {wanted}{' or more' if self.most != self.fewest else ''}")
        targets = [target] * len(views) if isinstance(target, Tensor) else target
        if len(targets) != len(views):
            raise ValueError(
                f"got {len(targets)} targets for {len(views)} view(s): give one tensor, or one for each view"
            )
        loss = self.regularized(model, GlobalBatch(criterion, views, targets, keys, shard))
        loss.views_loss = self.views_loss
        return loss

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most fit any model)
        """Raise a ValueError for a model that the penalty does not fit."""

    def after_step(self, model: nn.Module, views: Sequence[Input]) -> None:  # noqa: B027 (most have nothing to do)
        """What is left to do once the optimizer has stepped."""


class NoPenalty(Penalty):
    """The null object: the views' losses alone. With one view plain training, with two the control for GVR."""

    adds_nothing = True

    def __init__(self) -> None:
        super().__init__(alpha=0.0)

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """Zero."""
        return torch.zeros_like(views[0].loss)
