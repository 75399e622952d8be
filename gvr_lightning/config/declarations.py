"""What the class of a ``_target_`` declares that it needs: its attributes, read off its source without importing it."""

from functools import cache
from typing import Any

from gvr_lightning.config.source_code import attributes, from_source

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
    """Never by importing it: a run's own files name targets, too."""
    module, _, name = target.rpartition(".")
    return (attributes(module, name) if module else None) or {}


@cache
def _defaults(target: str) -> dict[str, Any]:
    module, _, name = target.rpartition(".")
    signature = from_source(module, name) if module else None
    return signature.defaults if signature else {}
