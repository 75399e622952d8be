"""What an update's predictions tell beside the loss, in a few kernels: views of one size are looked at together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gvr_lightning.methods.penalty import RegularizedLoss, mean_of

# rightly and wrongly labelled rows, and which of them are predicted as the label says or as it should say
BY_LABEL = ("clean", "noisy", "right_clean", "right_noisy", "right_noisy_true")
Views = list[tuple[Tensor, Tensor, Tensor | None, float]]


def label_figures(loss: RegularizedLoss, true: Tensor | list[Tensor] | None, agreement: bool) -> dict[str, Tensor]:
    """Accuracy on all views, and what label noise makes of it; each 0-d.

    Args:
        loss: of the update.
        true: the labels before label noise, of all rows, or for each view its own; None without any.
        agreement: whether the views are of the same samples, in order: then how often these get one label.
    """
    shares, labels = zip(*(_shares(views) for views in _alike(loss, true)), strict=True)
    found = torch.cat([share.view(len(share), -1) for share in shares], 1) if len(shares) > 1 else shares[0]
    means = found.mean(1) if found.ndim > 1 else found
    values = dict(zip(("acc", *BY_LABEL), means.unbind(), strict=False))
    if agreement:
        first, *others = [label for some in labels for label in some]
        values["view_agreement"] = mean_of([_share(label == first, loss.weights[0]) for label in others])
    return values


def _alike(loss: RegularizedLoss, true: Tensor | list[Tensor] | None) -> list[Views]:
    """The views' logits, labels, true labels and weights: all of them at once where they have as many rows."""
    views = list(zip(loss.logits, loss.targets, _of_views(true, loss.rows), loss.weights, strict=True))
    return [views] if len({(len(logits), weight) for logits, _, _, weight in views}) == 1 else [[v] for v in views]


def _of_views(true: Tensor | list[Tensor] | None, rows: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """The true labels of each view's rows."""
    if true is None:
        return [None] * len(rows)
    each = true if isinstance(true, list) else [true] * len(rows)
    # of a process without rows, where one of weight 0 stands in
    each = [labels if len(labels) else labels.new_zeros(1) for labels in each]
    return [labels if some is None else labels[some] for labels, some in zip(each, rows, strict=True)]


def _shares(views: Views) -> tuple[Tensor, Sequence[Tensor]]:
    """Which share of the rows is predicted as labelled, and ``BY_LABEL``, (figures,) or (figures, V); the predictions.

    Args:
        views: that have as many rows.
    """
    logits, targets, truths, weights = map(list, zip(*views, strict=True))
    predicted, target = _together(logits).argmax(-1), _together(targets)
    right, by_view = predicted == target, predicted.view(len(views), -1).unbind()
    if truths[0] is None:
        return _share(right, weights[0]).unsqueeze(0), by_view
    truth = _together(truths)
    clean = target == truth
    noisy = clean.logical_not()
    found = [right, clean, noisy, clean & right, noisy & right, noisy & (predicted == truth)]
    return _share(torch.stack([one.expand_as(right) for one in found]), weights[0]), by_view


def _together(tensors: list[Tensor]) -> Tensor:
    """As one, (V, ...); where all are the same tensor, that."""
    return tensors[0] if all(t is tensors[0] for t in tensors) else torch.stack(tensors)


def _share(true: Tensor, weight: float) -> Tensor:
    """How many of the rows, which are the last dimension, weighted; zero where there are none."""
    if weight == 1:
        return true.mean(-1, dtype=torch.float32)
    return true.sum(-1, dtype=torch.float32) * (weight / max(1, true.shape[-1]))
