"""What a run's default name says of parts that are the user's own: ``digits-none`` would be another run."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf

from gvr_lightning.config.folder import group_options

NAMED = ("data", "regularizer")  # whose options the name has anyway
_TARGET = re.compile(r"""_target_['"]?\s*[=:]\s*['"]?([\w.]+)""")


def own_parts(overrides: Iterable[str], choices: Mapping[str, Any]) -> str:
    """The classes and functions that overrides name, and the options that are not the project's, each after a dash.

    Args:
        overrides: of the command line.
        choices: the option of each group.
    """
    targets = [name.rpartition(".")[2] for text in overrides for name in _TARGET.findall(text)]
    groups = {group: options for group, options in group_options().items() if group not in NAMED}
    options = [choices[group] for group in groups if choices.get(group) and choices[group] not in groups[group]]
    return "".join(f"-{name}" for name in dict.fromkeys([*options, *targets]) if name)


OmegaConf.register_new_resolver("own_parts", own_parts, replace=True)  # of conf/config.yaml
