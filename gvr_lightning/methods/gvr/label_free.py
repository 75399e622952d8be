"""Label-free GVR: the views' gradients are compared for the labels that the network itself expects."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from gvr_lightning.methods.gvr.closed_form import ClosedForm
from gvr_lightning.methods.view import View


class LabelFreeGradientVariance(ClosedForm):
    """alpha * mean_i E_y ||g_1i(y) - g_2i(y)||^2: GVR of each sample, in expectation over its label.

    g_vi(y) is the last layer's gradient of the cross-entropy to the label y, which is drawn from the mean of the views'
    predictions; so the labels of the data do not enter, wrong ones among them. In closed form, see
    :func:`expected_distance`. Gradients go through the expectation, too. Of more than two views the mean over pairs.

    Args:
        alpha: weight of the penalty; not comparable with GVR's.
        detach: the first view is a target, such as a weak view that a strong one is to follow: no gradient goes
            through its pass.
        head: as in :class:`ClosedForm`.

    Raises:
        ValueError: for an alpha out of range.
    """

    fewest = 2
    needs_classes = True
    with_one_view = "gvr_one_view"

    def __init__(self, alpha: float = 0.01, detach: bool = False, head: str | nn.Module | None = None) -> None:
        super().__init__(alpha, head)
        self.detach = detach

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """The expected distance, a scalar."""
        with torch.autocast(views[0].logits.device.type, enabled=False):
            p, h = [v.logits.softmax(1) for v in views], self.features(views)
            if self.detach:
                p[0], h[0] = p[0].detach(), h[0].detach()
            return views[0].mean(expected_distance(p, h))


def expected_distance(p: Sequence[Tensor], h: Sequence[Tensor]) -> Tensor:
    """E ||(p_1i - e_y) h_1i^T - (p_2i - e_y) h_2i^T||^2 over y ~ (p_1i + p_2i) / 2, for every row i, (B,).

    With Delta the difference and bar the mean of both views it is
    ||Delta p||^2 ||bar h||^2 + (1 - ||bar p||^2) ||Delta h||^2: the mean of bar p - e_y is zero, and so the cross term.

    Args:
        p: V >= 2 tensors (B, C), probabilities; row i is one sample in each. Of more than two the mean over pairs.
        h: V tensors (B, D), features.
    """
    pairs = [_expected(p[u], h[u], p[v], h[v]) for u, v in combinations(range(len(p)), 2)]
    return torch.stack(pairs).mean(0)


def _expected(p1: Tensor, h1: Tensor, p2: Tensor, h2: Tensor) -> Tensor:
    mean = (p1 + p2) / 2
    of_logits = (p1 - p2).square().sum(1) * ((h1 + h2) / 2).square().sum(1)
    return of_logits + uncertainty(mean) * (h1 - h2).square().sum(1)


def uncertainty(p: Tensor) -> Tensor:
    """1 - ||p_i||^2 = E ||p_i - e_y||^2 over y ~ p_i, (B,); as a sum that does not cancel where p is nearly certain."""
    return (p * (1 - p)).sum(1)
