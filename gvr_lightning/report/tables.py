"""The report's tables, as text that the page and the Markdown file share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gvr_lightning.report.groups import Comparison, Setting
from gvr_lightning.report.metrics import NONE, Metric, number, p_value
from gvr_lightning.report.rows import COSTS, Row, best
from gvr_lightning.report.runs import FINISHED, Run
from gvr_lightning.report.statistics import Sample, sample

LISTED = 3  # settings of a run that is not averaged, in words


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
    notes: list[str] = field(default_factory=list)
    wide: bool = False  # text rather than numbers: aligned to the left


def result_table(rows: list[Row], metric: Metric) -> Table:
    """Mean, spread and paired difference of the compared metric."""
    columns = ["configuration", "n", f"{metric.words}{metric.unit}", "95% interval", "difference", "95% interval",
               "p", "pairs", "compared with"]  # fmt: skip
    top = best(rows, metric)
    lines = [_result(row, metric, row.group.label in top) for row in rows]
    return Table(f"Result: {metric.words}{metric.unit}", columns, lines)


def cost_table(rows: list[Row]) -> Table:
    """What a run of each group took, and how many times the baseline's."""
    columns = [
        "configuration",
        "seconds of training",
        "to baseline",
        "images seen",
        "to baseline",
        "updates",
        "to baseline",
    ]
    lines = []
    for row in rows:
        cells = [Cell(row.group.label, method=row.group.label)]
        for name in COSTS:
            cost, ratio = row.cost[name], row.relative[name]
            cells.append(Cell(_cost(name, cost)))
            cells.append(Cell(NONE if ratio is None else f"{ratio:.2f}x"))
        lines.append(cells)
    return Table("Cost of a run, means over the seeds", columns, lines)


def metrics_table(setting: Setting, metrics: Sequence[Metric]) -> Table:
    """Every test metric: mean ± standard deviation."""
    lines = []
    found = {(g.label, m.name): list(g.values(m.name).values()) for g in setting.groups for m in metrics}
    samples = {key: sample(values) for key, values in found.items() if values}
    for group in setting.groups:
        cells = [Cell(group.label, method=group.label)]
        for metric in metrics:
            own = samples.get((group.label, metric.name))
            cells.append(Cell(_spread(own, metric), _is_best(own, metric, samples)))
        lines.append(cells)
    columns = ["configuration", *(f"{metric.words}{metric.unit}" for metric in metrics)]
    return Table("All test metrics, mean ± standard deviation over the seeds", columns, lines)


def left_out_table(runs: Iterable[Run]) -> Table:
    """Every folder that is in no mean, with the reason."""
    lines = [[Cell(run.name), Cell(status_of(run)), Cell(run.reason)] for run in runs if run.reason]
    return Table("Every folder that is in no mean", ["folder", "status", "why"], lines, wide=True)


def differences_table(comparison: Comparison) -> Table:
    """The value of every key that differs, for each configuration of each setting."""
    names = [*comparison.setting_keys, *comparison.method_keys]
    groups = [(setting, group) for setting in comparison.settings for group in setting.groups]
    heads = [group.label + (f" ({setting.label})" if setting.label else "") for setting, group in groups]
    lines = [[Cell(name), *(Cell(_value(group.flat_config.get(name))) for _, group in groups)] for name in names]
    return Table("Every key that differs", ["key", *heads], lines, wide=True)


def status_of(run: Run) -> str:
    """How a run ended, in a word; a finished one that is not averaged stays finished."""
    return FINISHED if run.status == FINISHED else run.status


def _result(row: Row, metric: Metric, strong: bool) -> list[Cell]:
    difference, result = row.difference, row.result
    cells = [Cell(row.group.label, method=row.group.label), Cell(str(result.n)), Cell(_spread(result, metric), strong)]
    cells.append(Cell(interval(metric.text(result.low), metric.text(result.high))))
    if difference is None:
        words = "baseline" if row.is_baseline else "no baseline" if row.baseline is None else "no common seeds"
        return [*cells, *map(Cell, (NONE, NONE, NONE, NONE if row.is_baseline else "0", _against(row, words)))]
    low, high = metric.difference(difference.low), metric.difference(difference.high)
    text = Cell(metric.difference(difference.mean), difference.excludes_zero)
    rest = (interval(low, high), p_value(difference.p), str(len(difference.seeds)), _against(row, ""))
    return [*cells, text, *map(Cell, rest)]


def _against(row: Row, words: str) -> str:
    label = "" if row.is_baseline or row.baseline is None else row.baseline.label
    return f"{label}: {words}" if label and words else label or words


def interval(low: str, high: str) -> str:
    """An interval in brackets, a dash where there is none."""
    return NONE if NONE in (low, high) else f"[{low}, {high}]"


def _spread(found: Sample | None, metric: Metric) -> str:
    if found is None:
        return NONE
    return metric.text(found.mean) + (f" ± {metric.text(found.sd)}" if found.sd is not None else f" ({NONE})")


def _is_best(own: Sample | None, metric: Metric, samples: dict[tuple[str, str], Sample]) -> bool:
    means = [found.mean for (_, name), found in samples.items() if name == metric.name]
    if own is None or not metric.direction or len(means) < 2:
        return False
    return metric.direction * own.mean == max(metric.direction * mean for mean in means)


def _cost(name: str, value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if name != "seconds" else number(value)


def _value(value: object) -> str:
    return NONE if value is None else str(value)
