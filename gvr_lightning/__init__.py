"""Gradient regularization for PyTorch: GVR, AGR, and the framework to train with them.

The names below import torch only, and only when they are first used; GradientRegularization imports Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gvr_lightning.callbacks.gradient_regularization import GradientRegularization
    from gvr_lightning.distributed.batch import over_batch
    from gvr_lightning.methods.agr import AGR, agr_
    from gvr_lightning.methods.consistency import Consistency
    from gvr_lightning.methods.feature_norm import FeatureNorm
    from gvr_lightning.methods.generalised_cross_entropy import GeneralisedCrossEntropy
    from gvr_lightning.methods.gvr.label_free import LabelFreeGradientVariance
    from gvr_lightning.methods.gvr.normalised import NormalisedGradientVariance
    from gvr_lightning.methods.gvr.one_view import OneViewGradientVariance
    from gvr_lightning.methods.gvr.penalty import GradientVariance
    from gvr_lightning.methods.gvr.variance import gradient_variance, last_layer_variance
    from gvr_lightning.methods.label_smoothing import LabelSmoothing
    from gvr_lightning.methods.penalty import Penalty
    from gvr_lightning.methods.sam import SAM
    from gvr_lightning.methods.view import View
    from gvr_lightning.optim.acprop import ACProp

__version__ = "0.1.0"
__all__ = [
    "AGR",
    "SAM",
    "ACProp",
    "Consistency",
    "FeatureNorm",
    "GeneralisedCrossEntropy",
    "GradientRegularization",
    "GradientVariance",
    "LabelFreeGradientVariance",
    "LabelSmoothing",
    "NormalisedGradientVariance",
    "OneViewGradientVariance",
    "Penalty",
    "View",
    "agr_",
    "gradient_variance",
    "last_layer_variance",
    "over_batch",
]

_HOME = {
    "ACProp": "gvr_lightning.optim.acprop",
    "AGR": "gvr_lightning.methods.agr",
    "agr_": "gvr_lightning.methods.agr",
    "Consistency": "gvr_lightning.methods.consistency",
    "FeatureNorm": "gvr_lightning.methods.feature_norm",
    "GeneralisedCrossEntropy": "gvr_lightning.methods.generalised_cross_entropy",
    "GradientRegularization": "gvr_lightning.callbacks.gradient_regularization",
    "GradientVariance": "gvr_lightning.methods.gvr.penalty",
    "LabelFreeGradientVariance": "gvr_lightning.methods.gvr.label_free",
    "LabelSmoothing": "gvr_lightning.methods.label_smoothing",
    "NormalisedGradientVariance": "gvr_lightning.methods.gvr.normalised",
    "OneViewGradientVariance": "gvr_lightning.methods.gvr.one_view",
    "Penalty": "gvr_lightning.methods.penalty",
    "SAM": "gvr_lightning.methods.sam",
    "View": "gvr_lightning.methods.view",
    "gradient_variance": "gvr_lightning.methods.gvr.variance",
    "last_layer_variance": "gvr_lightning.methods.gvr.variance",
    "over_batch": "gvr_lightning.distributed.batch",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line checks a configuration without loading torch."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
