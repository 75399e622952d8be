"""A view's way through the network, and what it leaves behind. Imports torch only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gvr_lightning.distributed.shards import Share
from gvr_lightning.distributed.sync_batchnorm import uncounted
from gvr_lightning.variance import Criterion, at_least_float32

Network = Any  # an nn.Module with .backbone and .head, which nn.Module's own types cannot say
View = Tensor | tuple[Tensor, ...]  # what a network takes; all batch first
Through = Callable[[nn.Module, View, Tensor], "Pass"]


@dataclass
class Pass:
    """One view's way through the network; all have the batch's rows first."""

    logits: Tensor
    target: Tensor
    features: Tensor | None = None  # what enters the head
    entering: View | None = None  # what enters the last stage
    share: Share | None = None  # which part of the pass's rows is here; None: all of them
    index: Tensor | None = None  # which of the batch's rows these are; None: all, in order

    @property
    def processes(self) -> int:
        """How many share the rows."""
        return self.share.processes if self.share else 1

    @property
    def weight(self) -> float:
        """Of a mean over these rows, so that its mean over the processes is that of all rows."""
        return self.share.weight if self.share else 1.0

    def rows(self, index: Tensor, share: Share) -> "Pass":
        """The same pass for some samples."""
        tensors = (self.logits, self.target, self.features, self.entering)
        kept = (None if t is None else take(t, index) for t in tensors)
        return Pass(*kept, share=share, index=index)  # type: ignore[arg-type, misc]

    def loss(self, criterion: Criterion, logits: Tensor | None = None) -> Tensor:
        """The weighted loss of these rows, a mean over them.

        Args:
            criterion: (logits, target) -> mean over the rows.
            logits: of another pass over the same rows.
        """
        logits = self.logits if logits is None else logits
        loss = criterion(logits, self.target)
        return loss if self.weight == 1 else loss * self.weight


def take(x: View, index: Tensor) -> View:
    """Some rows of a tensor, or of each tensor of a tuple."""
    return tuple(t[index] for t in x) if isinstance(x, tuple) else x[index]


def whole(model: Network, view: View, target: Tensor) -> Pass:
    """A pass through any module. Here and below logits leave in float32 at least, so losses and penalties do too."""
    return Pass(at_least_float32(model(view)), target)


def twice_differentiable(model: Network, view: View, target: Tensor) -> Pass:
    """A pass through any module, by kernels that have second derivatives: fused attention has none."""
    with sdpa_kernel(SDPBackend.MATH):
        return whole(model, view, target)


def by_head(model: Network, view: View, target: Tensor) -> Pass:
    """A pass that keeps what enters ``model.head``."""
    require_parts(model)
    features = model.backbone(view)
    return Pass(at_least_float32(model.head(features)), target, features)


def by_stage(model: Network, view: View, target: Tensor) -> Pass:
    """A pass that also keeps what enters ``model.backbone.last_stage``."""
    require_parts(model)
    entering = model.backbone.early(view)
    features = model.backbone.last_stage(entering)
    return Pass(at_least_float32(model.head(features)), target, features, entering)


def make_passes(through: Through, model: nn.Module, pairs: Sequence[tuple[View, Tensor]], share: Share) -> list[Pass]:
    """Each view's pass, with the share of its rows that is here.

    A process without any passes a row of zeros, with weight 0: all compute the same, and FSDP's collectives meet.
    """
    if share.rows:
        passes = [through(model, view, target) for view, target in pairs]
    else:
        with uncounted(model):
            passes = [through(model, one_row(view), y.new_zeros(1, *y.shape[1:])) for view, y in pairs]
    for p in passes:
        p.share = share
    return passes


def forward(model: nn.Module, view: View) -> Tensor:
    """``model(view)``, also of no rows, which some networks cannot do: then of one, which is cut off again."""
    if len(view[0] if isinstance(view, tuple) else view):
        return model(view)
    with uncounted(model):
        return model(one_row(view))[:0]


def one_row(view: View) -> View:
    """A row of zeros."""
    if isinstance(view, tuple):
        return tuple(t.new_zeros(1, *t.shape[1:]) for t in view)
    return view.new_zeros(1, *view.shape[1:])


def require_parts(model: Network) -> None:
    if not hasattr(model, "head") or not hasattr(model, "backbone"):
        name = type(model).__name__
        raise ValueError(
            f"{name} has no .backbone and .head: wrap it in a SplitNetwork, or give layers=[name patterns]"
        )
