"""What stands where in a resolved configuration."""

from typing import Any

Config = dict[str, Any]


def get(config: Config, path: str) -> Any:
    """The value at a path, None if there is none."""
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def kind(config: Config, path: str) -> str:
    """The name of a node's target, without its module."""
    return str(get(config, f"{path}._target_")).rpartition(".")[2]
