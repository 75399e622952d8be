"""What is found of every group, as the tables that the page and the Markdown file share, and as CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gvr_lightning.config.identity import leaves
from gvr_lightning.files import as_text
from gvr_lightning.report.groups import Comparison, Group, Setting
from gvr_lightning.report.metrics import NONE, SCORES, Metric, number, p_value
from gvr_lightning.report.runs import FINISHED, Run
from gvr_lightning.report.statistics import Paired, Sample, paired, sample

COSTS = {"seconds": "seconds of training", "images": "images seen", "steps": "updates"}

Record = dict[str, Any]  # a line of a CSV file, by column


@dataclass(frozen=True)
class ComparedGroup:
    """A group's figures: result, difference to the baseline, cost."""

    group: Group
    baseline: Group | None  # None: there is none in its setting
    result: Sample
    difference: Paired | None  # None: the baseline itself, or no common seeds
    cost: dict[str, float | None]  # means
    relative: dict[str, float | None]  # to the baseline's

    @property
    def label(self) -> str:
        """The group's."""
        return self.group.label

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with it."""
        return self.group is self.baseline


@dataclass(frozen=True)
class Cell:
    """A cell's text."""

    text: str
    strong: bool = False  # the best of its column
    method: str = ""  # the label whose colour stands before it


@dataclass(frozen=True)
class Table:
    """A heading, columns and rows; the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: list[list[Cell]]
    wide: bool = False  # text rather than numbers: aligned to the left


def compared_groups(setting: Setting, metric: Metric) -> list[ComparedGroup]:
    """Every group of a setting beside its baseline."""
    return [_compared(group, setting.baselines.get(group.label), metric.name) for group in setting.groups]


def best(compared: Sequence[ComparedGroup], metric: Metric) -> set[str]:
    """The labels of those with the best mean; none where no direction is better, or there is nothing to beat."""
    return _best({one.label: one.result.mean for one in compared}, metric)


def further_metrics(comparison: Comparison) -> list[Metric]:
    """All final figures of test images and of generated ones that the comparison's runs have."""
    names = dict.fromkeys(name for run in comparison.runs for name in run.metrics)
    return [Metric(name) for name in names if name.startswith("test/") or name in SCORES]


def cost_of(run: Run, name: str) -> float | None:
    """Seconds of training, images seen (samples times views) or updates of one run; None if it is not recorded."""
    if name == "images":
        logged = [row["train/images"] for row in run.rows if "train/images" in row]
        if logged:
            return logged[-1]
    spent: float | None = run.summary["train"].get(name)
    return spent


def result_table(compared: Sequence[ComparedGroup], metric: Metric) -> Table:
    """Mean, spread and paired difference of the compared metric."""
    columns = ["configuration", "n", metric.heading, "95% interval", "difference", "95% interval", "p", "pairs",
               "compared with"]  # fmt: skip
    top = best(compared, metric)
    rows = [_result_cells(one, metric, one.label in top) for one in compared]
    return Table(f"Result: {metric.heading}", columns, rows)


def cost_table(compared: Sequence[ComparedGroup]) -> Table:
    """What a run of each group took, and how many times the baseline's."""
    columns = ["configuration", *(text for words in COSTS.values() for text in (words, "to baseline"))]
    rows = []
    for one in compared:
        cells = [Cell(one.label, method=one.label)]
        for name in COSTS:
            ratio = one.relative[name]
            cells += [Cell(_cost(name, one.cost[name])), Cell(NONE if ratio is None else f"{ratio:.2f}x")]
        rows.append(cells)
    return Table("Cost of a run, means over the seeds", columns, rows)


def metrics_table(setting: Setting, metrics: Sequence[Metric]) -> Table:
    """Every test metric: mean ± standard deviation."""
    rows = [[Cell(group.label, method=group.label)] for group in setting.groups]
    for metric in metrics:
        values = {group.label: list(group.values(metric.name).values()) for group in setting.groups}
        samples = {label: sample(own) for label, own in values.items() if own}
        top = _best({label: own.mean for label, own in samples.items()}, metric)
        for group, cells in zip(setting.groups, rows, strict=True):
            cells.append(Cell(_spread(samples.get(group.label), metric), group.label in top))
    columns = ["configuration", *(metric.heading for metric in metrics)]
    return Table("All test metrics, mean ± standard deviation over the seeds", columns, rows)


def left_out_table(runs: Iterable[Run]) -> Table:
    """Every folder that is in no mean, with the reason."""
    rows = [[Cell(run.name), Cell(run.status), Cell(run.reason)] for run in runs if run.reason]
    return Table("Every folder that is in no mean", ["folder", "status", "why"], rows, wide=True)


def differences_table(comparison: Comparison) -> Table:
    """The value of every key that differs, for each configuration of each setting."""
    names = [*comparison.setting_keys, *comparison.method_keys]
    groups = [(setting, group) for setting in comparison.settings for group in setting.groups]
    heads = [group.label + (f" ({setting.label})" if setting.label else "") for setting, group in groups]
    rows = [[Cell(name), *(Cell(_value(group.flat_config.get(name))) for _, group in groups)] for name in names]
    return Table("Every key that differs", ["key", *heads], rows, wide=True)


def group_record(comparison: Comparison, setting: str, compared: ComparedGroup) -> Record:
    """A line of table.csv."""
    result, difference, baseline = compared.result, compared.difference, compared.baseline
    record: Record = {"task": comparison.task, "setting": setting, "configuration": compared.label}
    record |= {"metric": comparison.metric.name, "n": result.n, "mean": result.mean, "sd": result.sd}
    record |= {"low": result.low, "high": result.high, "baseline": baseline.label if baseline else None}
    record |= {"pairs": len(difference.seeds) if difference else None}
    for name in ("mean", "low", "high", "p"):
        record[f"difference_{name}" if name != "p" else name] = getattr(difference, name) if difference else None
    record |= {name: compared.cost[name] for name in COSTS}
    return record | {f"{name}_relative": compared.relative[name] for name in COSTS}


def run_records(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[Record]:
    """The lines of runs.csv: every folder that was found."""
    labels = {
        id(run): (setting.label, group.label)
        for comparison in comparisons
        for setting in comparison.settings
        for group in setting.groups
        for run in group.runs.values()
    }
    keys = dict.fromkeys(key for c in comparisons for key in (*c.setting_keys, *c.method_keys))
    return [_run_record(run, labels.get(id(run)), list(keys)) for run in runs]


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """One line a record, in full precision and the units of summary.json; a column for every name in any of them."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: as_text(value) for name, value in record.items()} for record in records)


def interval(low: str, high: str) -> str:
    """An interval in brackets, a dash where there is none."""
    return NONE if NONE in (low, high) else f"[{low}, {high}]"


def _compared(group: Group, baseline: Group | None, name: str) -> ComparedGroup:
    values, difference = group.values(name), None
    if baseline is not None and baseline is not group:
        difference = paired(values, baseline.values(name))
    cost = _costs(group)
    base = _costs(baseline) if baseline is not None else {}
    relative = {key: _ratio(value, base.get(key)) for key, value in cost.items()}
    return ComparedGroup(group, baseline, sample(list(values.values())), difference, cost, relative)


def _costs(group: Group) -> dict[str, float | None]:
    found = {name: [cost_of(run, name) for run in group.runs.values()] for name in COSTS}
    known = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: fmean(values) if values else None for name, values in known.items()}


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _best(means: Mapping[str, float], metric: Metric) -> set[str]:
    if not metric.direction or len(means) < 2:
        return set()
    top = max(metric.direction * mean for mean in means.values())
    return {label for label, mean in means.items() if metric.direction * mean == top}


def _result_cells(compared: ComparedGroup, metric: Metric, strong: bool) -> list[Cell]:
    difference, result = compared.difference, compared.result
    cells = [Cell(compared.label, method=compared.label), Cell(str(result.n)), Cell(_spread(result, metric), strong)]
    cells.append(Cell(interval(metric.text(result.low), metric.text(result.high))))
    if difference is None:
        alone = "baseline" if compared.is_baseline else "no common seeds" if compared.baseline else "no baseline"
        pairs = NONE if compared.is_baseline else "0"
        return [*cells, *map(Cell, (NONE, NONE, NONE, pairs, _compared_with(compared, alone)))]
    low, high = metric.difference(difference.low), metric.difference(difference.high)
    text = Cell(metric.difference(difference.mean), difference.excludes_zero)
    rest = (interval(low, high), p_value(difference.p), str(len(difference.seeds)), _compared_with(compared, ""))
    return [*cells, text, *map(Cell, rest)]


def _compared_with(compared: ComparedGroup, words: str) -> str:
    label = "" if compared.is_baseline or compared.baseline is None else compared.baseline.label
    return f"{label}: {words}" if label and words else label or words


def _spread(found: Sample | None, metric: Metric) -> str:
    if found is None:
        return NONE
    return metric.text(found.mean) + (f" ± {metric.text(found.sd)}" if found.sd is not None else f" ({NONE})")


def _cost(name: str, value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if name != "seconds" else number(value)


def _value(value: object) -> str:
    return NONE if value is None else str(value)


def _run_record(run: Run, labels: tuple[str, str] | None, keys: Sequence[str]) -> Record:
    flat, finished = leaves(run.config), run.status == FINISHED
    setting, configuration = labels or (None, None)
    record: Record = {"folder": run.name, "status": run.status, "averaged": labels is not None, "reason": run.reason}
    record |= {"task": run.summary.get("task"), "setting": setting, "configuration": configuration}
    record |= {"seed": run.summary.get("seed")}
    record |= {key: flat.get(key) for key in keys}
    record |= {name: cost_of(run, name) if finished else None for name in COSTS}
    return record | run.metrics
