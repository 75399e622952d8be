"""Names that ``_target_``s of earlier configurations and checkpoints have, and where these things are now."""

from typing import Any

MODULES = {
    "gvr_lightning.consistency": "gvr_lightning.methods.consistency",
    "gvr_lightning.label_smoothing": "gvr_lightning.methods.label_smoothing",
    "gvr_lightning.loggers": "gvr_lightning.recording.csv",
    "gvr_lightning.optim.agr": "gvr_lightning.methods.agr",
    "gvr_lightning.optim.sam": "gvr_lightning.methods.sam",
    "gvr_lightning.penalty": "gvr_lightning.methods.penalty",
    "gvr_lightning.regularizers": "gvr_lightning.methods.gvr.penalty",
}


def current(node: Any) -> Any:
    """A configuration's node, of plain containers, with every ``_target_`` by its present name."""
    if isinstance(node, list):
        return [current(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    return {key: _name(inner) if key == "_target_" else current(inner) for key, inner in node.items()}


def _name(target: Any) -> Any:
    module, _, name = str(target).rpartition(".")
    return f"{MODULES[module]}.{name}" if module in MODULES else target
