"""What is found of every group, as the tables that the page, the Markdown file and the terminal share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gvr_lightning.report.cost import COSTS, GRADIENTS, costs, ratio
from gvr_lightning.report.groups import Comparison, Group, Setting, Weighed
from gvr_lightning.report.metrics import NONE, SCORES, Metric, number, p_value
from gvr_lightning.report.runs import Run
from gvr_lightning.report.sampling import sampling_note
from gvr_lightning.report.statistics import Paired, Sample, paired, sample

FEW = 5  # classes, of which the five likeliest are all
IDENTICAL = "identical in every seed"
EQUAL = {"images": "images", GRADIENTS: "gradients", "steps": "updates"}
UNCOUNTED = "Gradient evaluations are not shown: these runs did not record them."


@dataclass(frozen=True)
class ComparedGroup:
    """A group's figures: result, difference to the baseline, cost."""

    group: Group
    baseline: Group | None  # None: there is none in its setting
    result: Sample
    difference: Paired | None  # None: the baseline itself, or no common seeds
    cost: dict[str, float | None]  # means
    relative: dict[str, float | None]  # to the baseline's
    weighed: Sequence[tuple[Weighed, Paired | None]] = ()  # beside plain training of equal cost

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
    strong: bool = False  # a difference whose interval excludes zero
    method: str = ""  # the label whose colour stands before it


@dataclass(frozen=True)
class Table:
    """A heading, columns and rows; the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: list[list[Cell]]
    wide: bool = False  # text rather than numbers: aligned to the left
    families: frozenset[int] = frozenset()  # rows before which another control's begin
    notes: Sequence[str] = ()  # below it


def compared_groups(setting: Setting, metric: Metric) -> list[ComparedGroup]:
    """Every group of a setting beside its baseline."""
    return [_compared(group, setting, metric.name) for group in setting.groups]


def best(compared: Sequence[ComparedGroup], metric: Metric) -> set[str]:
    """The labels of those with the best mean; none where no direction is better, or there is nothing to beat."""
    return _best({one.label: one.result.mean for one in compared}, metric)


def further_metrics(runs: Sequence[Run]) -> list[Metric]:
    """All final figures of test images and of generated ones that say something of these runs."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    all_few = all(0 < len(run.summary.get("classes") or []) <= FEW for run in runs)
    told = [name for name in names if name.startswith("test/") or name in SCORES]
    return [Metric(name) for name in told if not (all_few and name == "test/top5")]


def result_table(compared: Sequence[ComparedGroup], metric: Metric) -> Table:
    """Mean, spread and paired difference of the compared metric."""
    columns = ["configuration", "n", metric.heading, "95% interval", "difference", "95% interval", "p", "pairs",
               "compared with"]  # fmt: skip
    rows = [_result_cells(one, metric) for one in compared]
    notes = [note] if (note := sampling_note([one.group for one in compared], metric)) else []
    return Table(f"Result: {metric.heading}", columns, rows, families=families(compared), notes=notes)


def plain_table(compared: Sequence[ComparedGroup], metric: Metric) -> Table:
    """What costs more beside plain training that costs as much; no rows where there is none."""
    columns = ["configuration", "difference", "95% interval", "p", "pairs", "compared with", "equal in", "images"]
    rows = []
    for one in compared:
        for line, difference in one.weighed:
            equal = " and ".join(EQUAL[name] for name in line.equal)
            times = ratio(one.cost["images"], costs(line.plain)["images"])
            images = NONE if times is None else f"{times:.2f}x"
            cells = [*_difference_cells(difference, metric), *map(Cell, (line.plain.label, equal, images))]
            rows.append([Cell(one.label, method=one.label), *cells])
    return Table(f"Against plain training: {metric.heading}", columns, rows)


def cost_table(compared: Sequence[ComparedGroup]) -> Table:
    """What a run of each group took, and how many times the baseline's."""
    shown = [name for name in COSTS if name != GRADIENTS or any(one.cost[name] is not None for one in compared)]
    columns = ["configuration", *(text for name in shown for text in (COSTS[name], "ratio")), "compared with"]
    rows = []
    for one in compared:
        cells = [Cell(one.label, method=one.label)]
        for name in shown:
            times = one.relative[name]
            cells += [Cell(_cost(name, one.cost[name])), Cell(NONE if times is None else f"{times:.2f}x")]
        rows.append([*cells, Cell(one.baseline.label if one.baseline else NONE)])
    notes = [] if GRADIENTS in shown else [UNCOUNTED]
    caption = "Cost of a run, means over the seeds"
    return Table(caption, columns, rows, families=families(compared), notes=notes)


def metrics_table(setting: Setting, metrics: Sequence[Metric]) -> Table:
    """Every test metric: mean ± standard deviation."""
    rows = [[Cell(group.label, method=group.label)] for group in setting.groups]
    for metric in metrics:
        for group, cells in zip(setting.groups, rows, strict=True):
            values, base = group.values(metric.name), setting.baselines.get(group.label, group)
            difference = paired(values, base.values(metric.name))
            strong = difference is not None and difference.excludes_zero
            cells.append(Cell(_spread(sample(list(values.values())) if values else None, metric), strong))
    columns = ["configuration", *(metric.heading for metric in metrics)]
    bold = "bold: its difference to the control has an interval that excludes zero"
    return Table(
        f"All test metrics, mean ± standard deviation over the seeds; {bold}",
        columns,
        rows,
    )


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


def interval(low: str, high: str) -> str:
    """An interval in brackets, a dash where there is none."""
    return NONE if NONE in (low, high) else f"[{low}, {high}]"


def families(compared: Sequence[ComparedGroup]) -> frozenset[int]:
    """The rows from the second on with which a control begins that others are compared with."""
    bases = [one.baseline for one in compared if not one.is_baseline]
    return frozenset(i for i, one in enumerate(compared) if i and any(one.group is base for base in bases))


def _compared(group: Group, setting: Setting, name: str) -> ComparedGroup:
    values, difference, baseline = group.values(name), None, setting.baselines.get(group.label)
    if baseline is not None and baseline is not group:
        difference = paired(values, baseline.values(name))
    own, base = costs(group), costs(baseline) if baseline is not None else {}
    relative = {key: ratio(value, base.get(key)) for key, value in own.items()}
    weighed = [(line, paired(values, line.plain.values(name))) for line in setting.weighed if line.group is group]
    return ComparedGroup(group, baseline, sample(list(values.values())), difference, own, relative, weighed)


def _best(means: Mapping[str, float], metric: Metric) -> set[str]:
    if not metric.direction or len(means) < 2:
        return set()
    top = max(metric.direction * mean for mean in means.values())
    return {label for label, mean in means.items() if metric.direction * mean == top}


def _result_cells(compared: ComparedGroup, metric: Metric) -> list[Cell]:
    result = compared.result
    cells = [Cell(compared.label, method=compared.label), Cell(str(result.n)), Cell(_spread(result, metric))]
    cells.append(Cell(interval(metric.text(result.low), metric.text(result.high))))
    if compared.difference is not None:
        return [*cells, *_difference_cells(compared.difference, metric), Cell(_compared_with(compared, ""))]
    alone = "baseline" if compared.is_baseline else "no common seeds" if compared.baseline else "no baseline"
    pairs = NONE if compared.is_baseline else "0"
    return [*cells, *map(Cell, (NONE, NONE, NONE, pairs, _compared_with(compared, alone)))]


def _difference_cells(found: Paired | None, metric: Metric) -> list[Cell]:
    """The difference, its interval, p and the number of pairs."""
    if found is None:
        return list(map(Cell, (NONE, NONE, NONE, "0")))
    pairs = str(len(found.seeds))
    if found.identical:
        return list(map(Cell, (IDENTICAL, NONE, NONE, pairs)))
    bounds = interval(metric.difference(found.low), metric.difference(found.high))
    return [Cell(metric.difference(found.mean), found.excludes_zero), *map(Cell, (bounds, p_value(found.p), pairs))]


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
