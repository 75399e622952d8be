"""Whether the options that overrides choose are there."""

from hydra.core.override_parser.types import Override

from gvr_lightning.config.overrides import SIGNS
from gvr_lightning.config.wording import show, suggest
from gvr_lightning.errors import UserError

Groups = dict[str, list[str]]
OPTIONAL = ("experiment", "sampler", "extractor", "sweep", "augmentation")  # groups that may stay empty


def is_choice(override: Override, groups: Groups) -> bool:
    """Whether an override chooses a group's option; ``group={key: value}`` sets keys instead."""
    key = override.key_or_group
    return key == "hydra" or key.startswith("hydra/") or (key in groups and not isinstance(override.value(), dict))


def check_choice(override: Override, groups: Groups) -> None:
    """Check one choice; those of Hydra's own groups are left to Hydra.

    Raises:
        UserError: for an option that is not there, or a sign or package that has no use here.
    """
    text, group, option = override.input_line, override.key_or_group, override.value()
    if group not in groups:
        return
    sign, options = SIGNS[override.type], ", ".join(groups[group])
    if override.package is not None:
        raise UserError(f"{text}: {group} has one place in the configuration; write {group}={show(option)}")
    if sign == "~":
        _check_removal(text, group, options)
    elif option is None and group in OPTIONAL:
        raise UserError(f"{text}: to have none, leave {group} out")
    elif isinstance(option, list):
        names = ",".join(map(show, option))
        raise UserError(f"{text}: takes one option ({options}); a sweep over several is -m {group}={names}")
    elif option not in groups[group]:
        raise UserError(f"{group}={show(option)}: there is no such option; {suggest(show(option), groups[group])}")
    elif sign:
        raise UserError(f"{text}: {group} is chosen already; write {group}={option} without {sign}")


def _check_removal(text: str | None, group: str, options: str) -> None:
    if group not in OPTIONAL:
        raise UserError(f"{text}: a run needs a {group}: {options}")
    if text != f"~{group}":
        raise UserError(f"{text}: write ~{group}")
