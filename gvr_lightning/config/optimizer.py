"""What an optimizer is made with: its own settings, and what the trainer asks of it."""

from typing import Any

from gvr_lightning.config.lookup import Config, get
from gvr_lightning.config.signatures import signature

CHOSEN = ("fused", "foreach")  # the user's own choice of torch's ways to update, which counts


def optimizer_node(config: Config) -> dict[str, Any]:
    """The settings of a resolved configuration's optimizer, with ``fused`` where ``trainer.fused`` finds it can be."""
    node: dict[str, Any] = dict(get(config, "optimizer") or {})
    if not get(config, "trainer.fused") or any(name in node for name in CHOSEN):
        return node
    try:
        takes = signature(str(node.get("_target_"))).arguments
    except ImportError:  # told elsewhere
        return node
    return node | ({"fused": True} if "fused" in takes else {})


def fused_and_scaled(config: Config) -> str | None:
    """A fused optimizer would unscale the gradients itself, too late for what has to see them before."""
    precision = get(config, "trainer.precision")
    if str(precision) not in ("16-mixed", "16") or not optimizer_node(config).get("fused"):
        return None
    return f"trainer.precision={precision}: a fused optimizer unscales gradients too late: set trainer.fused=false"
