"""The configurations of an arm: the grid of its search space, and what lies beyond or beside its winner."""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from gvr_lightning.config.ranges import is_number
from gvr_lightning.config.schema import rule_of
from gvr_lightning.config.wording import show
from gvr_lightning.errors import UserError
from gvr_lightning.study.plan import Arm, Plan, Values, draw

DIGITS = 4  # significant ones of a value that is computed
MANY = 64  # what every key of whole numbers takes
WORD = re.compile(r"[\w./-]+")
RANGE = {"from", "to", "number"}


def search_space(path: str, value: Any) -> tuple[Any, ...]:
    """The values of a key: as they are listed, or from one to another in equal ratios (in equal steps, where one is 0
    or less).

    Raises:
        UserError: for anything else.
    """
    if isinstance(value, dict) and value.keys() == RANGE:
        low, high, number = value["from"], value["to"], value["number"]
        whole = _is_whole(path.partition(".search.")[2], (low, high))
        if is_number(low) and is_number(high) and low < high and type(number) is int and 2 <= number <= 1000:
            line = (low, *(_between(low, high, i / (number - 1), whole) for i in range(1, number - 1)), high)
            if len(set(line)) == number:
                return line
    if isinstance(value, list) and value and all(map(_is_plain, value)) and len(set(map(repr, value))) == len(value):
        return tuple(value)
    words = "a list [a, b, ...] of different numbers or words or {from: a, to: b, number: n} with a < b and n >= 2"
    raise UserError(f"{path}={show(value)}: must be {words}")


def configurations(plan: Plan, name: str) -> list[Values]:
    """As many of an arm's grid as the plan says, in the grid's order; of a larger grid they are drawn.

    Raises:
        UserError: for a grid that is too small.
    """
    if plan.tuning is None:
        return [()]
    arm, number = plan.arms[name], plan.tuning.configurations
    grid = _grid(arm)
    if len(grid) < number:
        raise UserError(f"arms.{name}.search has {len(grid)} configurations, every arm needs {number}, as tuning says")
    chosen = set(draw(list(range(len(grid))), plan.seed, "configurations", name)[:number])
    return [values for i, values in enumerate(grid) if i in chosen]


def further(arm: Arm, winner: Values) -> Iterator[tuple[Values, str]]:
    """Configurations round a winner that are in no grid, the most wanted first, each with what it is.

    Beyond the edge of every key at which the winner stands, then between it and its neighbours; in the keys' ranges.
    """
    for wanted in (True, False):
        for key, value in winner:
            line = sorted(filter(is_number, arm.search[key]))
            if not is_number(value) or len(line) < 2 or value not in line:
                continue
            i, whole = line.index(value), _is_whole(key, line)
            beyond = [(line[j], line[k]) for j, k in ((0, 1), (-1, -2)) if value == line[j]]
            found = [_beyond(*pair, whole) for pair in beyond]
            if not wanted:
                found = [_between(value, line[j], 0.5, whole) for j in (i + 1, i - 1) if 0 <= j < len(line)]
            rule = rule_of(key)
            for new in found:
                if new is not None and new not in line and (rule is None or rule.holds(new)):
                    what = f"{key} beyond the edge" if wanted else f"{key} beside the winner"
                    yield tuple((k, new if k == key else v) for k, v in winner), what


def at_edge(arm: Arm, values: Values) -> list[str]:
    """The keys whose value is the lowest or the highest that was listed."""
    lines = {key: sorted(filter(is_number, arm.search[key])) for key, _ in values}
    return [key for key, value in values if len(lines[key]) > 1 and value in (lines[key][0], lines[key][-1])]


def setting_texts(values: Values) -> list[str]:
    """As on the command line."""
    return [f"{key}={show(value)}" for key, value in values]


def _grid(arm: Arm) -> list[Values]:
    return [tuple(zip(arm.search, values, strict=True)) for values in itertools.product(*arm.search.values())]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool) or is_number(value) or (
        isinstance(value, str) and WORD.fullmatch(value) is not None
    )  # fmt: skip


def _beyond(edge: Any, inner: Any, whole: bool) -> Any:
    """A step further: by the same ratio, or where one of both is 0 or less by the same difference; None if it is none.

    A step down never leaves what is positive: there the line ends at 0.
    """
    if edge > 0 and inner > 0:
        return _rounded(edge * edge / inner, whole)
    return None if edge < inner else _rounded(2 * edge - inner, whole)


def _between(low: Any, high: Any, share: float, whole: bool) -> Any:
    if low > 0 and high > 0:
        return _rounded(low * (high / low) ** share, whole)
    return _rounded(low + (high - low) * share, whole)


def _rounded(value: float, whole: bool) -> Any:
    return round(value) if whole else float(f"{value:.{DIGITS}g}")


def _is_whole(key: str, values: Iterable[Any]) -> bool:
    """Whether a key takes whole numbers alone, by its range; where that is not known, by the values that it has."""
    rule = rule_of(key)
    if rule is None:
        return all(type(value) is int for value in values)
    return rule.holds(MANY) and not rule.holds(MANY + 0.5)
