"""The command line's flags, which are Hydra's, told from its settings by Hydra's own parser, wherever they stand."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from gvr_lightning.config.searchpath import own_folders
from gvr_lightning.errors import UserError


def separate(arguments: Sequence[str]) -> tuple[Namespace, list[str], list[str]]:
    """What the flags say, the flags with their values as typed, and the settings.

    Raises:
        UserError: for a flag that is not there, or a value that it does not take, or a search path that leads nowhere.
    """
    parser = get_args_parser()
    parser.error = _complain  # type: ignore[method-assign]
    said = parser.parse_intermixed_args(list(arguments))
    left, flags = list(said.overrides), []
    for text in arguments:
        if left and text == left[0]:
            left.pop(0)
        else:
            flags.append(text)
    for name, value in (("--config-path", said.config_path), ("--config-name", said.config_name)):
        if value is not None:
            raise UserError(
                f"{name} {value}: the configuration is this project's; --config-dir adds a folder of your own"
            )
    if said.config_dir is not None and not Path(said.config_dir).is_dir():
        raise UserError(f"--config-dir {said.config_dir}: there is no such folder")
    own_folders(said.overrides)
    return said, flags, list(said.overrides)


def _complain(message: str) -> NoReturn:
    unknown = message.partition("unrecognized arguments: ")[2].split()
    if unknown:
        raise UserError(f"{unknown[0]}: there is no such flag; settings are given as key=value, --help shows them")
    raise UserError(" ".join(message.split()))
