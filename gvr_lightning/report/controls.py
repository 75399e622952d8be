"""What each group is compared with: its control, which sees as many views and adds nothing, or what was asked."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.identity import TAKERS
from gvr_lightning.report.cost import GRADIENTS, are_equal, costs, ratio
from gvr_lightning.report.groups import Comparison, Group, Setting, Weighed, alike, natural
from gvr_lightning.report.nearest import fits, nearest, nearest_of

LENGTH = TAKERS["epochs"]  # the key that may differ between trainings of equal cost
NAMED = 6  # groups in a sentence
MATCHED = ("images", GRADIENTS, "steps")  # what plain training may have in common with a group


def set_baselines(comparisons: Sequence[Comparison], wanted: str | None) -> None:
    """Choose what every group is compared with, and put related groups together, each behind its control.

    By default a group's control has as many views, no penalty and no wrapper of the optimizer, and is most like it
    otherwise: two views without a penalty for GVR, plain Adam for Adam with AGR. A control with several views is
    compared with plain training. What several views or a second pass cost is weighed besides: against plain training
    that saw as many images, took as many gradients or made as many updates.

    Args:
        comparisons: whose settings get them.
        wanted: a label, or key=value, with which every group is compared; None for the default.

    Raises:
        UserError: if no group is what was asked for.
    """
    groups = [group for comparison in comparisons for setting in comparison.settings for group in setting.groups]
    is_wanted = None if wanted is None else fits(groups, wanted)
    for comparison in comparisons:
        for setting in comparison.settings:
            if is_wanted is None:
                _match(setting, comparison.method_keys)
            elif candidates := [group for group in setting.groups if is_wanted(group)]:
                setting.baselines = nearest_of(setting.groups, candidates, comparison.method_keys)
            if setting.baselines:
                setting.groups.sort(key=partial(_place, setting.baselines))
            if wanted is None and len(setting.groups) > 1:
                setting.missing = [*_no_control(setting), *_no_equal_cost(setting, comparison.method_keys)]


def is_control(group: Group) -> bool:
    """Whether a group's runs have no regularizer at all but their views: no penalty, no wrapper of the optimizer."""
    flat = group.flat_config
    wrapped = any(name.startswith("regularizer.wrap.") for name in flat)
    return bool(declared({"_target_": flat.get("regularizer.penalty._target_")}, "adds_nothing")) and not wrapped


def is_plain(group: Group) -> bool:
    """Whether it is a control with one view."""
    return views(group) == 1 and is_control(group)


def views(group: Group) -> Any:
    """Of each sample."""
    return group.flat_config.get("regularizer.views")


def _match(setting: Setting, names: Sequence[str]) -> None:
    """Every group's control, plain training of equal cost, and what there is not."""
    controls = [group for group in setting.groups if is_control(group)]
    plain = [group for group in controls if is_plain(group)]
    roots = plain or controls
    others = [group for group in setting.groups if group not in roots]
    found = {}
    for group in others:
        same = [one for one in controls if views(one) == views(group) and not is_control(group)]
        found[group.label] = nearest(group, same or roots or setting.groups[:1], names)
    setting.baselines = found | nearest_of(roots, roots, names, list(found.values()))
    setting.weighed = [line for group in others for line in _weighed(group, plain, found[group.label], names)]


def _weighed(group: Group, plain: Sequence[Group], base: Group, names: Sequence[str]) -> list[Weighed]:
    """Beside plain training that is as long in some way, but for what it is compared with anyway."""
    own, found = costs(group), dict[str, Weighed]()
    for what in MATCHED:
        same = [one for one in plain if are_equal(own[what], costs(one)[what])]
        if same:
            one = nearest(group, same, [name for name in names if name != LENGTH])
            equal = found[one.label].equal if one.label in found else ()
            found[one.label] = Weighed(group, one, (*equal, what))
    return [line for line in found.values() if line.plain is not base]


def _no_control(setting: Setting) -> list[str]:
    """Of which methods there is no control, and what they are compared with instead."""
    controls = [group for group in setting.groups if is_control(group)]
    said, methods = [], [group for group in setting.groups if not is_control(group)]
    for same in alike(methods, views):
        n = views(same[0])
        if not any(views(control) == n for control in controls):
            bases = dict.fromkeys(setting.baselines[group.label].label for group in same)
            mixed = "; a difference is that of the views and of the method together" if controls else ""
            said.append(f"No control ({_option(n)}) for {_named(same)}: compared with {_listed(list(bases))}{mixed}.")
    several = [group for group in setting.groups if views(group) != 1]
    if several and not any(views(group) == 1 for group in setting.groups):
        said.append(
            f"No plain training ({_option(1)}) beside {_named(several)}: what their views are worth is not seen."
        )
    return said


def _no_equal_cost(setting: Setting, names: Sequence[str]) -> list[str]:
    """Which groups cost more than plain training, and have none of equal cost beside them."""
    plain, dear = [group for group in setting.groups if is_plain(group)], dict[str, list[Group]]()
    for group in setting.groups if plain else []:
        own = costs(group)
        what = GRADIENTS if own[GRADIENTS] is not None else "images"
        times = ratio(own[what], costs(nearest(group, plain, names))[what])
        if times is not None and times > 1 and not any(are_equal(own[what], costs(one)[what]) for one in plain):
            length = group.flat_config.get(LENGTH)
            longer = f" epochs={round(length * times)}" if isinstance(length, int) else ""
            dear.setdefault(f"({_option(1)}{longer})", []).append(group)
    return [f"No plain training at equal cost {how} for {_named(groups)}." for how, groups in dear.items()]


def _option(n: Any) -> str:
    """What to type for the control with so many views."""
    return "regularizer=none" if n == 1 else "regularizer=two_view" + ("" if n == 2 else f" regularizer.views={n}")


def _named(groups: Sequence[Group]) -> str:
    return _listed([group.label for group in groups])


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(labels[:NAMED]) + more


def _place(baselines: Mapping[str, Group], group: Group) -> list[tuple[Any, ...]]:
    """A key that puts each group behind its control: idle controls, methods, controls with methods of their own."""
    base = baselines[group.label]
    own = (any(one is group for one in baselines.values()), not is_control(group), natural(group.label))
    return [own] if base is group else [*_place(baselines, base), own]
