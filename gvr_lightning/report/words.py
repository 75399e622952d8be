"""The report's opening, computed from its numbers."""

from collections.abc import Sequence

from gvr_lightning.report.groups import Comparison, Setting
from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.runs import Run
from gvr_lightning.report.tables import ComparedGroup, best, interval

METHOD = (
    "Mean and standard deviation (n - 1) are over the seeds of a configuration. Intervals are Student's, 95%, with"
    " n - 1 degrees of freedom; they describe the spread over seeds on one test set, and of few seeds may reach"
    " beyond what is possible. One seed has none.",
    "A difference to the baseline is taken seed by seed, over the seeds that both have. Its interval and p value are"
    " those of the paired t test, two-sided. No correction for multiple comparisons is made.",
    "Bold is the best mean of a column, and a difference whose interval excludes zero.",
    "Seconds are those of training, without validation, tests and checkpoints; images seen are samples times views.",
    "Of several finished runs with one configuration and seed the one that finished last counts. Keys that change where"
    " a run is computed or shown, such as name, logger and devices, make no configuration; an absent key equals null.",
    "Curves are means over the range that all runs of a configuration cover, each run interpolated linearly.",
)
MOST = 6  # differences that are told one by one


def count(number: int, word: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def found(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    """How many runs there are, and in what they are grouped."""
    averaged = sum(len(comparison.runs) for comparison in comparisons)
    settings = sum(len(comparison.settings) for comparison in comparisons)
    groups = sum(len(setting.groups) for comparison in comparisons for setting in comparison.settings)
    text = f"{count(len(runs), 'run')} found, {averaged} averaged in {count(groups, 'configuration')}"
    text += f" and {count(settings, 'setting')}." if settings > 1 else "."
    left = sum(bool(run.reason) for run in runs)
    return text + (
        f" {left} {'is' if left == 1 else 'are'} not averaged, and listed below with the reason." if left else ""
    )


def outcome(setting: Setting, rows: Sequence[ComparedGroup], metric: Metric) -> str:
    """The best configuration of a setting, and which differences stand out of the seeds' spread."""
    sentences, top = [], [row for row in rows if row.group.label in best(list(rows), metric)]
    if top:
        who = " and ".join(row.group.label for row in top)
        value = f"{metric.text(top[0].result.mean)}{'%' if metric.percent else ''}"
        sentences.append(f"Best {metric.words}: {value}{_spread(top[0], metric) if len(top) == 1 else ''}, by {who}.")
    compared = [row for row in rows if row.difference is not None and row.difference.low is not None]
    beyond = [row for row in compared if row.difference is not None and row.difference.excludes_zero]
    if compared:
        sentences.append(_how_many(beyond, compared, metric))
    elif len(rows) > 1:
        sentences.append("No interval of a difference: that takes two seeds in common with the baseline.")
    where = f"{setting.label}: " if setting.label else ""
    return where + " ".join(sentences) if sentences else ""


def _how_many(beyond: Sequence[ComparedGroup], compared: Sequence[ComparedGroup], metric: Metric) -> str:
    number = f"{len(beyond) or 'none'} {'has' if len(beyond) <= 1 else 'have'}"
    text = f"Of {count(len(compared), 'difference')} to the baseline, {number} a 95% interval that excludes zero"
    told = [_difference(row, metric) for row in beyond[:MOST]]
    more = f", and {len(beyond) - MOST} more" if len(beyond) > MOST else ""
    return text + (f": {'; '.join(told)}{more}." if told else ".")


def _difference(row: ComparedGroup, metric: Metric) -> str:
    found = row.difference
    assert found is not None and row.baseline is not None
    bounds = interval(metric.difference(found.low), metric.difference(found.high))
    unit = " points" if metric.percent else ""
    who = f"{row.group.label} less {row.baseline.label}"
    return f"{who} {metric.difference(found.mean)}{unit} {bounds}, {len(found.seeds)} pairs"


def _spread(row: ComparedGroup, metric: Metric) -> str:
    if row.result.low is None:
        return " (one seed)"
    return f" (95% interval {metric.text(row.result.low)} to {metric.text(row.result.high)}, n = {row.result.n})"
