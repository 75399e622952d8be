"""What the class of a ``_target_`` declares that it needs: its attributes, read off its source without importing it."""

from functools import cache
from typing import Any

from gvr_lightning.config.signatures import locate, signature
from gvr_lightning.config.source_code import attributes

Config = dict[str, Any]


def declared(node: Any, name: str, otherwise: Any = None) -> Any:
    """One declaration of a node's class, or of the class that its function returns.

    Args:
        node: plain settings with a ``_target_``; anything else declares nothing.
        name: of a class attribute with a plain value; ``varies`` says for which settings it is another.
        otherwise: where it is not declared.
    """
    target = node.get("_target_") if isinstance(node, dict) else None
    if not isinstance(target, str):
        return otherwise
    found = _of(target)
    settings = {**_defaults(target), **node}
    for (setting, value), special in found.get("varies", {}).items():
        if settings.get(setting) == value and name in special:
            return special[name]
    return found.get(name, otherwise)


@cache
def _of(target: str) -> dict[str, Any]:
    module, _, name = target.rpartition(".")
    from_source = attributes(module, name) if module else None
    if from_source is not None:
        return from_source
    try:
        found = locate(target)
    except ImportError:  # which the check of targets says
        return {}
    return {key: getattr(found, key) for key in dir(found) if not key.startswith("_")}


def _defaults(target: str) -> dict[str, Any]:
    try:
        return signature(target).defaults
    except ImportError:
        return {}
