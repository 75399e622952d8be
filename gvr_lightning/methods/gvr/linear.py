"""A linear last layer: what entered it in the views' passes, and whether closed forms hold for it."""

from collections.abc import Sequence

from torch import Tensor, nn

from gvr_lightning.methods.view import View


def last_layer(views: Sequence[View]) -> nn.Module:
    """The last layer of the passes."""
    assert views[0].head is not None
    return views[0].head


def features(views: Sequence[View]) -> list[Tensor]:
    """What entered it, in each view."""
    return [v.features for v in views if v.features is not None]


def is_linear(head: nn.Module, views: Sequence[View]) -> bool:
    """Whether the closed form is that of the last layer's trainable parameters."""
    trained = isinstance(head, nn.Linear) and head.weight.requires_grad
    return trained and all(f.ndim == 2 for f in features(views))


def has_bias(head: nn.Module) -> bool:
    """Whether it has one that is trained."""
    bias = getattr(head, "bias", None)
    return bias is not None and bool(bias.requires_grad)


def require_linear(head: nn.Module, who: str) -> None:
    """Raise a ValueError for a layer that is not linear, or not trained."""
    if not isinstance(head, nn.Linear):
        raise ValueError(f"{who} needs a linear last layer, not {type(head).__name__}")
    if not head.weight.requires_grad:
        raise ValueError(f"{who} needs a last layer whose weight is trained, not its bias alone")


def require_rows(head: nn.Module, views: Sequence[View], who: str) -> None:
    """Raise a ValueError if the closed form does not hold for these passes."""
    if not is_linear(head, views):
        name = type(head).__name__
        raise ValueError(f"{who} needs a linear last layer over (B, D) features, not {name}")
