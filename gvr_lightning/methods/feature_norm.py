"""The norm of features and last weights: the control that tells GVR from a penalty on norms."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gvr_lightning.methods.gvr.closed_form import ClosedForm
from gvr_lightning.methods.gvr.linear import features, last_layer
from gvr_lightning.methods.passes import at_least_float32
from gvr_lightning.methods.view import View


class FeatureNorm(ClosedForm):
    """alpha * (mean_i ||h_i||^2 + ||W||^2), with the features h that enter the last layer and its weight W.

    A gradient of the last layer is d h^T, so whatever makes such gradients smaller may do so by the features alone. If
    this does as well as a form of GVR, that one is a penalty on norms. SAM's robustness to wrong labels was traced to
    these two norms (Baek et al. 2024, arXiv 2405.03676). Of several views the mean.

    Args:
        alpha: weight of the penalty; not comparable with GVR's.
        head: as in :class:`ClosedForm`.

    Raises:
        ValueError: for an alpha out of range.
    """

    def penalty(self, model: nn.Module, views: Sequence[View]) -> Tensor:
        """The norms, a scalar."""
        head = last_layer(views)
        self.require(views)
        with torch.autocast(views[0].logits.device.type, enabled=False):
            h = [at_least_float32(f).square().sum(1) for f in features(views)]
            of_features = torch.stack([v.mean(norms) for v, norms in zip(views, h, strict=True)]).mean()
            weight: Tensor = head.weight  # type: ignore[assignment]
            return of_features + at_least_float32(weight).square().sum()
