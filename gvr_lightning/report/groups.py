"""Runs into comparisons, settings and groups: what differs, found by itself."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gvr_lightning.config.identity import SETTING
from gvr_lightning.report.labels import Source, labels
from gvr_lightning.report.metrics import DEFAULTS, Metric
from gvr_lightning.report.runs import FINISHED, FlatConfig, Run, defining, differing

T = TypeVar("T")


@dataclass
class Group:
    """The runs of one configuration, which differ in their seeds."""

    label: str
    flat_config: FlatConfig
    runs: dict[int, Run]  # by seed

    def values(self, metric: str) -> dict[int, float]:
        """A final figure by seed, where it is there and finite."""
        found = {seed: run.metrics.get(metric, math.nan) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Weighed:
    """A group beside plain training that cost as much."""

    group: Group
    plain: Group
    equal: tuple[str, ...]  # in what, of the names of costs


@dataclass
class Setting:
    """Groups that may be compared: on the same data, with the same model."""

    label: str  # "" if there is only one
    groups: list[Group]
    baselines: dict[str, Group] = field(default_factory=dict)  # by the label of the group that is compared with it
    weighed: list[Weighed] = field(default_factory=list)  # what is compared with plain training besides
    missing: list[str] = field(default_factory=list)  # sentences: which controls there are not

    @property
    def runs(self) -> list[Run]:
        """All of its groups'."""
        return [run for group in self.groups for run in group.runs.values()]


@dataclass
class Comparison:
    """The runs of one task, with the metric that is compared."""

    task: str
    metric: Metric
    settings: list[Setting]
    method_keys: list[str]  # that differ within a setting
    setting_keys: list[str]

    @property
    def runs(self) -> list[Run]:
        """All that are averaged."""
        return [run for setting in self.settings for run in setting.runs]


def compare(runs: Sequence[Run], metric: str | None) -> list[Comparison]:
    """The comparisons, one a task; runs that cannot be averaged get their reason.

    Args:
        runs: every run that was found; their ``reason`` is set where they are left out.
        metric: what is compared; None for the task's own.
    """
    finished = sorted((run for run in runs if run.status == FINISHED), key=lambda run: run.task)
    found = []
    for of_task in alike(finished, lambda run: run.task):
        name = metric or _usual_metric(of_task)
        usable = [run for run in of_task if _is_usable(run, name)]
        if usable:
            found.append(_comparison(Metric(name), usable))
    return found


def natural(text: str) -> list[tuple[int, float, str]]:
    """A key that sorts the numbers in a text by value."""
    parts = re.split(r"(\d+\.?\d*(?:e[-+]?\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def alike(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Together what has the same key, in the order of the first of each."""
    parts: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        parts[key(item)].append(item)
    return list(parts.values())


def _usual_metric(runs: Sequence[Run]) -> str:
    """The metric by which runs of a task are compared."""
    names = DEFAULTS.get(runs[0].task, ("test/acc", "fid", "test/loss"))
    return next((name for name in names if any(name in run.metrics for run in runs)), names[0])


def _is_usable(run: Run, name: str) -> bool:
    """Whether a run has the metric; one that has not gets its reason."""
    value = run.metrics.get(name)
    if value is None:
        run.reason = f"finished without {name}"
    elif not math.isfinite(value):
        run.reason = f"{name} is {value}"
    return not run.reason


def _comparison(metric: Metric, runs: list[Run]) -> Comparison:
    flats = defining(runs)
    names = differing(flats)
    sources = _without_duplicates([Source(run, flat) for run, flat in zip(runs, flats, strict=True)], names)
    fixed = [name for name in names if name.partition(".")[0] in SETTING]
    parts = alike(sources, lambda source: source.values(fixed))
    within = [differing([source.flat_config for source in part]) for part in parts]
    method_keys = [name for name in names if name not in fixed and any(name in found for found in within)]
    setting_keys = [name for name in names if name not in method_keys]
    alone = [source.run.choices.get("regularizer", "default") for source in sources]
    named = labels(sources, method_keys) if method_keys else alone
    headings = dict(zip((id(s) for s in sources), labels(sources, setting_keys, always=True), strict=True))
    methods = dict(zip((id(s) for s in sources), named, strict=True))
    settings = [
        Setting(headings[id(part[0])] if len(parts) > 1 else "", _groups(part, method_keys, methods)) for part in parts
    ]
    return Comparison(runs[0].task, metric, sorted(settings, key=lambda s: natural(s.label)), method_keys, setting_keys)


def _groups(part: list[Source], names: Sequence[str], methods: dict[int, str]) -> list[Group]:
    groups = []
    for same in alike(part, lambda source: source.values(names)):
        runs = {source.run.seed: source.run for source in sorted(same, key=lambda s: s.run.seed)}
        groups.append(Group(methods[id(same[0])], same[0].flat_config, runs))
    return sorted(groups, key=lambda group: natural(group.label))


def _without_duplicates(sources: list[Source], names: Sequence[str]) -> list[Source]:
    """The last finished run of each configuration and seed; the others get their reason."""
    last: dict[tuple[Any, ...], Source] = {}
    for source in sorted(sources, key=lambda s: (s.run.written, s.run.name)):
        key = source.run.seed, *source.values(names)
        if key in last:
            last[key].run.reason = f"the same configuration and seed as {source.run.name}, which finished later"
        last[key] = source
    return [source for source in sources if not source.run.reason]
