"""What stands where in a resolved configuration."""

import hashlib
import json
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


def config_hash(config: Config) -> str:
    """The sha256 of what defines a run: its name, its sweep's folder, where it was resumed from, and trust do not."""
    defining = {key: value for key, value in config.items() if key not in ("name", "resume", "trust")}
    if "trust" in (config.get("extractor") or {}):
        defining["extractor"] = {key: value for key, value in config["extractor"].items() if key != "trust"}
    if "sweep" in (config.get("logger") or {}):  # of logger=wandb, with the time in it
        defining["logger"] = {key: value for key, value in config["logger"].items() if key != "sweep"}
    return hashlib.sha256(json.dumps(defining, sort_keys=True).encode()).hexdigest()
