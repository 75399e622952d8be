"""The command line's overrides: parsed, and sweeps taken apart."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, OverrideType
from hydra.errors import HydraException

from gvr_lightning.errors import UserError

SIGNS = {OverrideType.CHANGE: "", OverrideType.ADD: "+", OverrideType.FORCE_ADD: "++", OverrideType.DEL: "~"}
MOST_CHOICES = 50  # of one sweep; a longer one, such as range(0,10000), is looked at from both ends

Item = TypeVar("Item")


def parse(text: str) -> Override:
    """One override.

    Raises:
        UserError: if it is none.
    """
    if text.startswith("-"):
        raise UserError(f"{text}: there is no such flag; settings are given as key=value, --help shows them")
    if "=" not in text and not text.startswith("~"):
        raise UserError(f"{text or repr(text)}: a setting is given as key=value, without spaces round the =")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).partition(" expecting ")[0].replace("HydraException while evaluating ", "").splitlines()[0]
        raise UserError(
            f"{text}: not understood as key=value ({reason}); a value with special characters needs quotes:"
            """ "key='value'\""""
        ) from error


def choices(override: Override, options: Sequence[str]) -> list[Override]:
    """The single values that an override stands for, each as an override of its own; ``options`` are glob's.

    Raises:
        UserError: for a sweep over nothing, or over Hydra's own settings.
    """
    if not override.is_sweep_override():
        return [override]
    if override.is_hydra_override():
        raise UserError(f"{override.input_line}: Hydra's own settings cannot be swept")
    values = _values(override, options)
    if not values:
        raise UserError(f"{override.input_line}: a sweep over nothing")
    if len(values) > MOST_CHOICES:
        values = values[: MOST_CHOICES // 2] + values[-MOST_CHOICES // 2 :]
    return [parse(f"{override.get_key_element()}={value}") for value in values]


def combinations(lists: Sequence[Sequence[Item]], most: int) -> list[tuple[Item, ...]]:
    """Every combination of one item from each list; if that is more than ``most``, as few as contain every item."""
    if math.prod(map(len, lists)) <= most:
        return list(itertools.product(*lists))
    return [tuple(items[i % len(items)] for items in lists) for i in range(max(map(len, lists)))]


def _values(override: Override, options: Sequence[str]) -> list[str]:
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    if isinstance(value, Glob):
        return value.filter(list(options))
    try:
        return list(itertools.islice(override.sweep_string_iterator(), 1_000_000))
    except (HydraException, ValueError) as error:
        raise UserError(f"{override.input_line}: {error}") from error
