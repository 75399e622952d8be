"""Which of some groups is most like another, and which one was asked for."""

from collections.abc import Callable, Sequence
from typing import Any

from gvr_lightning.config.identity import SHORT
from gvr_lightning.config.wording import show, suggest
from gvr_lightning.errors import UserError
from gvr_lightning.report.groups import Group
from gvr_lightning.report.runs import FlatConfig, frozen


def fits(groups: Sequence[Group], wanted: str) -> Callable[[Group], bool]:
    """Whether a group is the one with a label, or has a key's value.

    Raises:
        UserError: if none is.
    """
    if any(group.label == wanted for group in groups):
        return lambda group: group.label == wanted
    key, _, value = wanted.partition("=")

    def holds(group: Group) -> bool:
        run, flat = next(iter(group.runs.values())), group.flat_config
        named: dict[str, Any] = {**flat, **{SHORT[name]: value for name, value in flat.items() if name in SHORT}}
        return run.choices.get(key) == value or (key in named and value in (show(named[key]), str(named[key])))

    if not any(map(holds, groups)):
        raise UserError(
            f"baseline={wanted}: no configuration; {suggest(wanted, dict.fromkeys(g.label for g in groups))}"
        )
    return holds


def nearest_of(
    groups: Sequence[Group], candidates: Sequence[Group], names: Sequence[str], used: Sequence[Group] = ()
) -> dict[str, Group]:
    """What each group is compared with, by its label; a candidate that nothing is like, with one of the others.

    Args:
        groups: all of them.
        candidates: those that may be compared with.
        names: keys that differ.
        used: candidates that others are compared with already.
    """
    others = [group for group in groups if group not in candidates]
    if not others and not used:  # nothing but candidates: the first is the baseline of the rest
        candidates, others = candidates[:1], list(candidates[1:])
    found = {group.label: nearest(group, candidates, names) for group in others}
    taken = [group for group in candidates if any(group is base for base in [*used, *found.values()])]
    for group in candidates:
        found[group.label] = group if group in taken or not taken else nearest(group, taken, names)
    return found


def nearest(group: Group, candidates: Sequence[Group], names: Sequence[str]) -> Group:
    """The candidate that differs least in what is no part of the regularizer; of equals the first."""
    besides = [name for name in names if not name.startswith("regularizer.")]
    return min(candidates, key=lambda candidate: _distance(group.flat_config, candidate.flat_config, besides))


def _distance(one: FlatConfig, other: FlatConfig, names: Sequence[str]) -> int:
    return sum(frozen(one.get(name)) != frozen(other.get(name)) for name in names)
