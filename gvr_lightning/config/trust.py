"""What may be built from a file, which anybody may have written: nothing is called that a stranger named.

From a checkpoint or a run's folder come plain values, and the names of what the files of conf/ name. What else is
to be built the user names on the command line, ``trust=my_package.Net``; a ``trust`` that a file holds does not count.
"""

import re
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.wording import show
from gvr_lightning.errors import UserError

TARGET = "_target_"
# Of others, in a run's folder: their classes take plain values, and do with them what their names say.
HARMLESS = re.compile(
    r"torch\.optim\.[A-Z]\w*|torch\.optim\.lr_scheduler\.[A-Z]\w*|diffusers\.\w+Scheduler|torchvision\.transforms(\.v2)?\.[A-Z]\w*"
)
_NAMED = re.compile(rf"\b{TARGET}: *([\w.]+)")


@cache
def own_targets(group: str = "*", folder: Path | None = None) -> frozenset[str]:
    """Every ``_target_`` that the files of a group of conf/ name, or of a folder like it; of all groups without one."""
    files = (folder or conf_folder()).glob(f"{group}/*.yaml")
    return frozenset(name for file in files for name in _NAMED.findall(file.read_text(encoding="utf-8")))


def names(trust: Any) -> tuple[str, ...]:
    """The targets that ``trust`` names: one, several or none."""
    return (trust,) if isinstance(trust, str) else tuple(trust or ())


def require_own(node: Any, key: str, source: object, group: str, trust: Collection[str] = ()) -> dict[str, Any]:
    """A node of a configuration that was read from a file, if it may be built.

    Args:
        node: with a ``_target_``, by its present name.
        key: of the node.
        source: the file, for the complaint.
        group: of conf/, whose own targets may be built.
        trust: further targets.

    Raises:
        UserError: for another target, one within its arguments, or an interpolation.
    """
    if not isinstance(node, dict) or not isinstance(node.get(TARGET), str):
        raise UserError(f"{source}: its {key} is no settings with a {TARGET}")
    target = node[TARGET]
    if target not in own_targets(group) and target not in trust:
        raise UserError(f"{source}: its {key} is {refusal(target)}")
    for inner, value in node.items():
        if inner != TARGET:
            _require_plain(value, f"{key}.{inner}", source, trust)
            if str(inner).startswith("_"):
                raise UserError(f"{source}: its {key}.{inner} is for Hydra alone, and does not come from a file")
    return node


def _require_plain(value: Any, key: str, source: object, trust: Collection[str]) -> None:
    if isinstance(value, dict):
        if TARGET in value and value[TARGET] not in trust:
            raise UserError(f"{source}: its {key}.{TARGET} is {refusal(value[TARGET])}")
        for inner, its_value in value.items():
            _require_plain(its_value, f"{key}.{inner}", source, trust)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _require_plain(inner, f"{key}.{i}", source, trust)
    elif isinstance(value, str) and "${" in value:
        raise UserError(f"{source}: its {key} is {show(value)}: from a file come values, and no references")
    elif not isinstance(value, str | int | float | bool | None):
        raise UserError(f"{source}: its {key} is a {type(value).__name__}, and no plain value")


def targets_in(value: Any) -> Iterator[str]:
    """Every ``_target_`` within a value."""
    if isinstance(value, dict):
        if TARGET in value:
            yield str(value[TARGET])
        for inner in value.values():
            yield from targets_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from targets_in(inner)


def refusal(target: object) -> str:
    """What to say of a target that is neither this project's nor trusted."""
    return f"{show(target)}, which is not this project's: if you trust what it does, add trust={show(target)}"
