"""The command lines of the commands beside training: ``key=value`` settings, what they must be, and their help."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gvr_lightning.config.columns import page_width, row
from gvr_lightning.config.overrides import parse
from gvr_lightning.config.ranges import Rule
from gvr_lightning.config.wording import show, suggest
from gvr_lightning.errors import UserError

FLAGS = "Flags: --help, this page; --version, the project's"
Table = Mapping[str, tuple[Any, Rule, str]]  # name: default, what it must be, what it is


def setting_lines(table: Table) -> list[str]:
    """A line of help for each setting."""
    rows = {f"  {name}={show(default)}": words for name, (default, _, words) in table.items()}
    return [row(left, right, 25, page_width()) for left, right in rows.items()]


def read_settings(
    arguments: Sequence[str], table: Table, needed: Mapping[str, str], others: Collection[str] = ()
) -> dict[str, Any]:
    """Every setting's value, its default where it is not given.

    Args:
        arguments: as typed.
        table: the settings.
        needed: those without a default, with what to give.
        others: further names, to suggest.

    Raises:
        UserError: for the first mistake.
    """
    settings = {name: default for name, (default, _, _) in table.items()}
    for text in arguments:
        key = parse(text).key_or_group
        if key not in table:
            raise UserError(f"{text}: there is no such setting; {suggest(key, [*table, *others])}")
        settings[key] = _value(text, table[key][1])
    for key, words in needed.items():
        if settings[key] is None:
            raise UserError(f"{key} is missing: add {key}=<{words}>")
    return settings


def _value(text: str, rule: Rule) -> Any:
    value = parse(text).value()
    value = str(value) if rule.holds("text") and isinstance(value, int | float) else value
    if not rule.holds(value):
        raise UserError(f"{text}: must be {rule.words}")
    return value
