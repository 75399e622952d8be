"""The keys of the configuration, read off its files."""

import re
from collections.abc import Iterator

import yaml

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.keys import FREE


def keys(node: object, path: str) -> Iterator[tuple[str, object]]:
    """The keys of a configuration's part with their values, without what names classes."""
    for name, value in node.items() if isinstance(node, dict) else ():
        if name == "defaults" or name.startswith("_"):
            continue
        key = f"{path}.{name}".lstrip(".")
        if isinstance(value, dict) and key not in FREE:
            yield from keys(value, key)
        else:
            yield key, value


def configured() -> dict[str, list[object]]:
    """Every key of the configuration that does not repeat another one, and the values that its files give it."""
    found: dict[str, list[object]] = {}
    groups = {path.name for path in conf_folder().iterdir()}
    for path in [conf_folder() / "config.yaml", *conf_folder().glob("*/*.yaml")]:
        text, group = path.read_text(), path.parent.name
        if group not in ("experiment", "sweep"):
            package = re.search("^# @package (.+)", text)
            above = "" if "@package _global_" in text or group == "conf" else package[1] if package else group
            for key, value in keys(yaml.safe_load(text), above):
                repeats = str(value).startswith("${")
                if not repeats and not key.startswith("hydra") and key not in groups:
                    found.setdefault(key, []).append(value)
    return found
