"""How a mistake is put into one line."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from hydra.errors import MissingConfigException

LONGEST = 80
_LOOKS_OTHERWISE = re.compile(r"[-+.\d][-+.\deE_]*|true|false|null|nan|inf|", re.IGNORECASE)  # text that needs quotes


PLUGINS = {  # of Hydra's, by the option that each brings
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "optuna": "hydra-optuna-sweeper",
}


def show(value: Any) -> str:
    """A plain value as one would type it, cut off where it is long."""
    text = _plain(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(inner)}' for key, inner in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    looks_otherwise = isinstance(value, str) and _LOOKS_OTHERWISE.fullmatch(value)
    return f"'{value}'" if looks_otherwise else str(value)


def nearest(name: str, options: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The option most like a name in whatever case, None if none is."""
    by_lower = {option.lower(): option for option in options}
    return next((by_lower[near] for near in get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)), None)


def suggest(name: str, options: Iterable[str]) -> str:
    """The option that was probably meant, if any, and all of them."""
    options = list(options)
    near = nearest(name, options)
    there = f"there is {', '.join(options) or 'none'}"
    return f"did you mean {near}? ({there})" if near else there


def one_line(error: BaseException) -> str:
    """What an exception of Hydra or OmegaConf says, with its cause's reason, in one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if group.startswith("hydra/") and option in PLUGINS and option not in (error.options or []):
            return f"{group}={option} needs {PLUGINS[option]}: pip install {PLUGINS[option]}"
        return f"{group}={option}: there is no such option; {suggest(option, error.options or [])}"
    causes = [str(e).strip().splitlines()[0] for e in (error, error.__cause__) if e is not None and str(e).strip()]
    return ": ".join(causes).replace(".:", ":") or type(error).__name__
