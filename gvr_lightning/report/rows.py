"""The figures of every group: result, difference to the baseline, cost."""

from dataclasses import dataclass
from statistics import fmean

from gvr_lightning.report.groups import Comparison, Group, Setting
from gvr_lightning.report.metrics import SCORES, Metric
from gvr_lightning.report.runs import Run
from gvr_lightning.report.statistics import Paired, Sample, paired, sample

COSTS = ("seconds", "images", "steps")


@dataclass(frozen=True)
class Row:
    """A group's figures."""

    group: Group
    baseline: Group | None  # None: there is none in its setting
    result: Sample
    difference: Paired | None  # None: the baseline itself, or no common seeds
    cost: dict[str, float | None]  # means
    relative: dict[str, float | None]  # to the baseline's

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with it."""
        return self.group is self.baseline


def rows_of(setting: Setting, metric: Metric) -> list[Row]:
    """One row a group."""
    return [_row(group, setting.baselines.get(group.label), metric.name) for group in setting.groups]


def best(rows: list[Row], metric: Metric) -> set[str]:
    """The labels of the rows with the best mean; none where no direction is better, or there is nothing to beat."""
    if not metric.direction or len(rows) < 2:
        return set()
    top = max(metric.direction * row.result.mean for row in rows)
    return {row.group.label for row in rows if metric.direction * row.result.mean == top}


def further_metrics(comparison: Comparison) -> list[Metric]:
    """All final figures of test images and of generated ones that the comparison's runs have."""
    names = dict.fromkeys(name for run in comparison.runs for name in run.metrics)
    return [Metric(name) for name in names if name.startswith("test/") or name in SCORES]


def cost_of(run: Run, name: str) -> float | None:
    """Seconds of training, images seen (samples times views) or updates of one run; None if it is not recorded."""
    if name == "images":
        logged = [row["train/images"] for row in run.rows if "train/images" in row]
        return logged[-1] if logged else run.summary["train"].get("images")
    return run.summary["train"].get(name)


def _row(group: Group, baseline: Group | None, name: str) -> Row:
    values, difference = group.values(name), None
    if baseline is not None and baseline is not group:
        difference = paired(values, baseline.values(name))
    cost = _costs(group)
    compared = _costs(baseline) if baseline is not None else {}
    relative = {key: _ratio(value, compared.get(key)) for key, value in cost.items()}
    return Row(group, baseline, sample(list(values.values())), difference, cost, relative)


def _costs(group: Group) -> dict[str, float | None]:
    found = {name: [cost_of(run, name) for run in group.runs.values()] for name in COSTS}
    known = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: fmean(values) if values else None for name, values in known.items()}


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
