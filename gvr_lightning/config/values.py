"""Whether values are what they must be: by the ranges in conf/, or as the default is where that is silent."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from gvr_lightning.config import cpu  # noqa: F401 (a resolver of conf/trainer/cpu.yaml)
from gvr_lightning.config.ranges import ANYTHING, FLAG, NODE, NUMBER, SETTINGS, TEXT, WHOLE, Rule, list_of
from gvr_lightning.config.schema import rule_of
from gvr_lightning.config.wording import one_line, show
from gvr_lightning.errors import UserError

FIXED_LENGTH = ("data.mean", "data.std", "optimizer.betas", "task.noise.beta_range")  # lists as long as their default

_BY_TYPE = {bool: FLAG, int: WHOLE, float: NUMBER, str: TEXT}


def check_values(default: Any, value: Any, raw: Any, path: str = "") -> None:
    """Check a tree of values against the rules; below a ``_target_`` that was changed only that target knows.

    Args:
        default: the resolved tree before the overrides of keys.
        value: the resolved tree to check.
        raw: the same as it is written, with its interpolations.
        path: of these trees.

    Raises:
        UserError: for the first value that is not what it must be.
    """
    rule = rule_of(path) or _like(default)
    if (isinstance(default, dict) or not is_open(value)) and not rule.holds(value):
        written = f"{path}={show(raw)}" + (f", that is {show(value)}" if show(raw) != show(value) else "")
        raise UserError(f"{written}: must be {rule.words}")
    is_fixed = path in FIXED_LENGTH and isinstance(default, list) and len(default) > 1  # one entry is for all channels
    if is_fixed and isinstance(value, list) and len(value) != len(default):
        raise UserError(f"{path}={show(raw)}: must have {len(default)} entries")
    if isinstance(value, dict) and isinstance(default, dict) and value.get("_target_") == default.get("_target_"):
        for name, inner in value.items():
            below = f"{path}.{name}" if path else name
            raw_inner = raw[name] if isinstance(raw, dict) else inner
            check_values(default.get(name), inner, raw_inner, below)


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with its interpolations replaced by their values, but for those that are known in a job only.

    Raises:
        UserError: for an interpolation that leads nowhere.
    """
    try:
        config = OmegaConf.create(tree)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {one_line(error)}") from error
    return {name: _resolve(config, value, name) for name, value in tree.items()}


def _resolve(config: DictConfig, raw: Any, path: str) -> Any:
    if isinstance(raw, dict):
        return {name: _resolve(config, value, f"{path}.{name}") for name, value in raw.items()}
    if isinstance(raw, list):
        return [_resolve(config, value, f"{path}.{i}") for i, value in enumerate(raw)]
    if not isinstance(raw, str) or "${" not in raw or "${hydra:" in raw:
        return raw
    try:
        value = OmegaConf.select(config, path)
    except InterpolationToMissingValueError:
        return raw
    except OmegaConfBaseException as error:
        if "HydraConfig was not set" in str(error):  # by way of another key
            return raw
        raise UserError(f"{path}={raw}: {one_line(error)}") from error
    return _resolve(config, OmegaConf.to_container(value), path) if OmegaConf.is_config(value) else value


def is_open(value: Any) -> bool:
    """Whether a value is not known yet: missing, or an interpolation that only a job can resolve."""
    return isinstance(value, str) and (value == "???" or "${" in value)


def _like(default: Any) -> Rule:
    """As the default is; anything where it is null or not there."""
    if isinstance(default, dict):
        return NODE if "_target_" in default else SETTINGS
    if isinstance(default, list):
        return list_of(ANYTHING)
    return ANYTHING if is_open(default) else _BY_TYPE.get(type(default), ANYTHING)
