"""A penalty of what a linear last layer gets and gives."""

from collections.abc import Sequence

from torch import Tensor, nn

from gvr_lightning.methods.gvr.layers import Head
from gvr_lightning.methods.gvr.linear import features, has_bias, last_layer, require_linear, require_rows
from gvr_lightning.methods.gvr.outer import with_ones
from gvr_lightning.methods.gvr.variance import residual
from gvr_lightning.methods.passes import at_least_float32
from gvr_lightning.methods.penalty import Penalty
from gvr_lightning.methods.view import View


class ClosedForm(Penalty):
    """A penalty in closed form of the last layer's gradients, for any network with a linear one, compiled or not.

    Args:
        alpha: weight of the penalty.
        head: the last layer, or its name; None: it is found (``.head``, ``get_classifier()``, ``.fc``,
            ``.classifier``, else the last ``nn.Linear`` that runs).

    Raises:
        ValueError: for an alpha out of range.
    """

    def __init__(self, alpha: float = 0.01, head: str | nn.Module | None = None) -> None:
        super().__init__(alpha)
        self.head = Head(head)
        self.through = self.head.through

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError for a model whose last layer is not linear, or not trained."""
        require_linear(self.head.layer(model), type(self).__name__)

    def require(self, views: Sequence[View]) -> None:
        """Raise a ValueError for passes whose last layer is not linear, or not trained."""
        require_rows(last_layer(views), views, type(self).__name__)

    def features(self, views: Sequence[View]) -> list[Tensor]:
        """What entered the last layer in each view, (B, D), and a feature that is always 1 where it trains a bias."""
        self.require(views)
        h = [at_least_float32(f) for f in features(views)]
        return [with_ones(f) for f in h] if has_bias(last_layer(views)) else h

    def residuals(self, views: Sequence[View]) -> list[Tensor]:
        """The gradients of the rows' own losses with respect to their logits, (B, C), in each view."""
        return [residual(v.batch.criterion, v.logits, v.target) for v in views]
