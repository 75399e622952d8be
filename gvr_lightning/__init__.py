"""Gradient regularization for PyTorch: GVR, AGR, and the framework to train with them.

The names below import torch only, and only when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gvr_lightning.consistency import Consistency
    from gvr_lightning.label_smoothing import LabelSmoothing
    from gvr_lightning.optim.acprop import ACProp
    from gvr_lightning.optim.agr import AGR, agr_
    from gvr_lightning.optim.sam import SAM
    from gvr_lightning.regularizers import GradientVariance
    from gvr_lightning.variance import gradient_variance, last_layer_variance

__version__ = "0.1.0"
__all__ = [
    "AGR",
    "SAM",
    "ACProp",
    "Consistency",
    "GradientVariance",
    "LabelSmoothing",
    "agr_",
    "gradient_variance",
    "last_layer_variance",
]

_HOME = {
    "ACProp": "gvr_lightning.optim.acprop",
    "AGR": "gvr_lightning.optim.agr",
    "agr_": "gvr_lightning.optim.agr",
    "Consistency": "gvr_lightning.consistency",
    "GradientVariance": "gvr_lightning.regularizers",
    "LabelSmoothing": "gvr_lightning.label_smoothing",
    "SAM": "gvr_lightning.optim.sam",
    "gradient_variance": "gvr_lightning.variance",
    "last_layer_variance": "gvr_lightning.variance",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line checks a configuration without loading torch."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
