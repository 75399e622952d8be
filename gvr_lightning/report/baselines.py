"""Which group each group is compared with."""

from collections.abc import Callable, Sequence
from typing import Any

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.wording import show, suggest
from gvr_lightning.errors import UserError
from gvr_lightning.report.groups import Comparison, Group, Setting, natural
from gvr_lightning.report.runs import SHORT, FlatConfig, frozen


def set_baselines(comparisons: Sequence[Comparison], wanted: str | None) -> None:
    """Choose every setting's baselines and put them first.

    By default they are the groups without regularization, or the first group; a group is compared with the one
    that is most like it otherwise, such as Adam with AGR with plain Adam.

    Args:
        comparisons: whose settings get them.
        wanted: a label, or key=value; None for the default.

    Raises:
        UserError: if no group is what was asked for.
    """
    groups = [group for comparison in comparisons for setting in comparison.settings for group in setting.groups]
    fits: Callable[[Group], bool] = is_plain if wanted is None else _fits(groups, wanted)
    for comparison in comparisons:
        for setting in comparison.settings:
            candidates = [group for group in setting.groups if fits(group)]
            if candidates or wanted is None:
                _choose(setting, candidates or setting.groups[:1], comparison.method_keys)


def is_plain(group: Group) -> bool:
    """Whether a group's runs have no regularizer at all: one view, no penalty, no wrapper of the optimizer."""
    flat = group.flat_config
    adds_nothing = declared({"_target_": flat.get("regularizer.penalty._target_")}, "adds_nothing")
    wrapped = any(name.startswith("regularizer.wrap.") for name in flat)
    return flat.get("regularizer.views") == 1 and adds_nothing and not wrapped


def _fits(groups: Sequence[Group], wanted: str) -> Callable[[Group], bool]:
    if any(group.label == wanted for group in groups):
        return lambda group: group.label == wanted
    key, _, value = wanted.partition("=")

    def holds(group: Group) -> bool:
        run = next(iter(group.runs.values()))
        named: dict[str, Any] = {
            **group.flat_config,
            **{SHORT[n]: v for n, v in group.flat_config.items() if n in SHORT},
        }
        return run.choices.get(key) == value or (key in named and value in (show(named[key]), str(named[key])))

    if not any(map(holds, groups)):
        raise UserError(
            f"baseline={wanted}: no configuration; {suggest(wanted, dict.fromkeys(g.label for g in groups))}"
        )
    return holds


def _choose(setting: Setting, candidates: list[Group], names: Sequence[str]) -> None:
    others = [group for group in setting.groups if group not in candidates]
    if not others:  # nothing but candidates: the first is the baseline of the rest
        candidates, others = candidates[:1], candidates[1:]
    nearest = {group.label: _nearest(group, candidates, names) for group in others}
    used = [group for group in candidates if any(group is base for base in nearest.values())] or candidates
    for group in candidates:
        nearest[group.label] = group if group in used else _nearest(group, used, names)
    setting.baselines = nearest

    def place(group: Group) -> tuple[Any, ...]:
        base = nearest[group.label]
        return natural(base.label), group is not base, natural(group.label)

    setting.groups.sort(key=place)


def _nearest(group: Group, candidates: Sequence[Group], names: Sequence[str]) -> Group:
    """The candidate that differs least in what is no part of the regularizer; of equals the first."""
    besides = [name for name in names if not name.startswith("regularizer.")]
    return min(candidates, key=lambda candidate: _distance(group.flat_config, candidate.flat_config, besides))


def _distance(one: FlatConfig, other: FlatConfig, names: Sequence[str]) -> int:
    return sum(frozen(one.get(name)) != frozen(other.get(name)) for name in names)
