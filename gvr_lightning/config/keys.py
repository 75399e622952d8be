"""Overrides carried out on a plain configuration, as Hydra would, and the keys that are not there."""

from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.override_parser.types import Override

from gvr_lightning.config.folder import group_options
from gvr_lightning.config.groups import OPTIONAL
from gvr_lightning.config.overrides import SIGNS
from gvr_lightning.config.schema import options_with
from gvr_lightning.config.signatures import signature
from gvr_lightning.config.wording import nearest, show
from gvr_lightning.errors import UserError

FREE = ("model.options", "label_noise.map", "parameters.lr_scale")  # what is below is not ours to know

Tree = dict[str, Any]


def apply(override: Override, tree: Tree) -> None:
    """Carry an override out. Whether what ``+`` adds has a meaning shows only once all overrides are in.

    Raises:
        UserError: for a key that is not there, or with ``+`` is there already, or must not be removed.
    """
    if override.package is not None:
        raise UserError(f"{override.input_line}: {override.key_or_group} is no config group, so it takes no @")
    _set(override, override.key_or_group.split("."), _text_keys(override.value()), tree)


def _set(override: Override, path: list[str], value: Any, tree: Tree) -> None:
    sign, key, name = SIGNS[override.type], ".".join(path), path[-1]
    node = _parent(override, path, tree)
    if isinstance(node, list):
        node[int(name)] = value
    elif sign == "~":
        _remove(override, key, node)
    elif isinstance(value, dict) and isinstance(node.get(name), dict):
        for inner, its_value in value.items():
            _set(override, [*path, inner], its_value, tree)
    elif sign == "+" and node.get(name) is not None and not isinstance(value, dict | list):
        raise UserError(f"{override.input_line}: {key} is there already; write {key}={show(value)} without +")
    else:
        node[name] = value


def _text_keys(value: Any) -> Any:
    """The same with every key as text, as a key on the command line is."""
    if isinstance(value, list):
        return [_text_keys(inner) for inner in value]
    return {str(key): _text_keys(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _parent(override: Override, path: list[str], tree: Tree) -> Any:
    """What holds the last part of a path; ``+`` makes what is absent on the way."""
    node: Any = tree
    for depth, part in enumerate(path):
        there = _names(node)
        may_add = SIGNS[override.type] in ("+", "++") and isinstance(node, dict)
        if part not in there and not may_add:
            raise _unknown(override, path[: depth + 1], node, tree)
        if depth == len(path) - 1:
            break
        if isinstance(node, list):
            node = node[int(part)]
        else:
            if node.get(part) is None and may_add:
                node[part] = {}
            node = node[part]
    return node


def _names(node: Any) -> list[str]:
    if isinstance(node, list):
        return [str(i) for i in range(len(node))]
    return list(node) if isinstance(node, dict) else []


def _remove(override: Override, key: str, node: Tree) -> None:
    """Only a target's arguments may go: everything else the run reads."""
    above, _, name = key.rpartition(".")
    if ("_target_" not in node or name.startswith("_")) and above not in FREE:
        raise UserError(f"{override.input_line}: {key} cannot be removed, only given another value")
    if "${" in str(node[name]) and name in _arguments(node):
        raise UserError(f"{override.input_line}: {key} is {node[name]}; set that, or {key}=<value>")
    del node[name]


def _unknown(override: Override, path: list[str], node: Any, tree: Tree) -> UserError:
    """The complaint about the last part of a path."""
    text, key, above = str(override.input_line), ".".join(path), ".".join(path[:-1])
    group, groups = above if node is None else key, group_options()
    if group in groups:
        return UserError(f"{text}: there is no {group}; choose one of {', '.join(groups[group])} by {group}=...")
    if node is None:
        return UserError(f"{text}: {above} is null, so {key} is not there; add it with +{text.lstrip('~')}")
    if not isinstance(node, dict | list):
        return UserError(f"{text}: {above} is a value ({show(node)}) and has no key {path[-1]}")
    new = SIGNS[override.type] == "" and (above in FREE or path[-1] in _arguments(node))
    if new:
        return UserError(f"{text}: {key} is not in the configuration yet; add it with +{text}")
    if above == "data.augmentation" and (options := options_with(key)):  # not of a data set's own
        return UserError(f"{text}: there is no key {key} without one of {', '.join(options)}")
    return UserError(f"{text}: there is no key {key}; {suggest_key(key, _names(node), tree)}")


def _arguments(node: Any) -> Iterable[str]:
    """What a node's target takes."""
    target = node.get("_target_") if isinstance(node, dict) else None
    try:
        return signature(target).arguments if isinstance(target, str) else ()
    except ImportError:
        return ()


def suggest_key(key: str, siblings: Iterable[str], tree: Tree) -> str:
    """A sibling if one is near, else a key of that name elsewhere, else all siblings."""
    above, _, name = key.rpartition(".")
    prefix = f"{above}." if above else ""
    siblings = [*(s for s in siblings if not s.startswith("_") and s not in (name, "hydra"))]
    siblings += [] if above else OPTIONAL
    near = nearest(name, siblings, cutoff=0.7)
    if near:
        return f"did you mean {prefix}{near}?"
    elsewhere = [path for path in _paths(tree) if path != key and not path.startswith(f"{key}.")]
    by_name = {path.rpartition(".")[2]: path for path in elsewhere}
    same = nearest(name, by_name, cutoff=0.75)
    near = nearest(key, [path for path in elsewhere if path.rpartition(".")[2] == same], cutoff=0.0)
    return f"did you mean {near}?" if near else f"there is {', '.join(prefix + s for s in siblings) or 'none at all'}"


def _paths(tree: Tree, prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if not name.startswith("_") and prefix + name != "hydra":
            yield prefix + name
            if isinstance(value, dict):
                yield from _paths(value, f"{prefix}{name}.")
