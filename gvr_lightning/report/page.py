"""The report as one HTML page that opens without a network, and as Markdown, and the sentences that open it."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gvr_lightning.report.figures import Figure, Look
from gvr_lightning.report.groups import Comparison, Setting
from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.runs import Run
from gvr_lightning.report.statistics import Sample
from gvr_lightning.report.tables import Cell, ComparedGroup, Table, best, interval

MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")  # what Markdown would read as a mark
METHOD = (
    "Mean and standard deviation (n - 1) are over the seeds of a configuration. Intervals are Student's, 95%, with"
    " n - 1 degrees of freedom; they describe the spread over seeds on one test set, and of few seeds may reach"
    " beyond what is possible. One seed has none.",
    "A configuration is compared with its control, unless baseline= says another: the one that sees as many views of a"
    " sample, without a penalty or a change of the gradients. What costs more is also set against plain training that"
    " saw as many images, took as many gradients, or made as many updates.",
    "A difference is taken seed by seed, over the seeds that both have. Its interval and p value are those of the"
    " paired t test, two-sided. No correction for multiple comparisons is made.",
    "Bold is a difference whose interval excludes zero, and a mean whose difference to its control has such an"
    " interval, be it better or worse.",
    "Seconds are those of training, without validation, tests and checkpoints; images seen are samples times views;"
    " gradient evaluations are these times how often an update takes the gradients, twice for SAM. What a penalty"
    " differentiates again, or passes of its own, are in the seconds alone.",
    "Of several finished runs with one configuration and seed the one that finished last counts. Keys that change where"
    " a run is computed or shown, such as name, logger and devices, make no configuration; an absent key equals null.",
    "Curves are means over the range that all runs of a configuration cover, each run interpolated linearly.",
)
TOLD = 6  # differences that are told one by one


@dataclass(frozen=True)
class Section:
    """A setting's part of the report."""

    heading: str
    outcome: str
    missing: Sequence[str]
    tables: Sequence[Table]
    figures: list[Figure]
    samples: list[Figure]


@dataclass(frozen=True)
class Part:
    """A comparison's part."""

    heading: str
    common: str
    sections: Sequence[Section]
    differing: Table
    commands: Sequence[str]


@dataclass(frozen=True)
class Page:
    """All that the page shows."""

    title: str
    opening: Sequence[str]
    warnings: Sequence[str]
    parts: Sequence[Part]
    left_out: Table
    versions: Table
    method: Sequence[str]
    again: str
    looks: dict[str, Look]
    beside: Mapping[str, str]  # files below its folder, and what is in them


def html(page: Page) -> str:
    """The page, its figures within it."""
    return _render("page.html", page, autoescape=True)


def markdown(page: Page) -> str:
    """The same for GitHub, its figures as links to files beside it."""
    text = _render("page.md", page, autoescape=False)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def count(number: int, word: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def runs_found(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
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


def outcome(setting: Setting, groups: Sequence[ComparedGroup], metric: Metric) -> str:
    """The best configuration of a setting, and which differences stand out of the seeds' spread."""
    sentences, labels = [], best(groups, metric)
    if top := [group for group in groups if group.label in labels]:
        who = " and ".join(group.label for group in top)
        value = f"{metric.text(top[0].result.mean)}{'%' if metric.percent else ''}"
        sentences.append(
            f"Best {metric.words}: {value}{_spread(top[0].result, metric) if len(top) == 1 else ''}, by {who}."
        )
    compared = [group for group in groups if group.difference is not None and group.difference.low is not None]
    beyond = [group for group in compared if group.difference is not None and group.difference.excludes_zero]
    if compared:
        sentences.append(_how_many(beyond, compared, metric))
        same = [group for group in compared if group.difference is not None and group.difference.identical]
        sentences += [f"Identical in every seed: {_pairs(same)}."] if same else []
    elif len(groups) > 1:
        sentences.append("No interval of a difference: that takes two seeds in common with the baseline.")
    where = f"{setting.label}: " if setting.label else ""
    return where + " ".join(sentences) if sentences else ""


def _render(template: str, page: Page, autoescape: bool) -> str:
    folder = Path(__file__).parent / "templates"
    environment = Environment(loader=FileSystemLoader(folder), autoescape=autoescape, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    filters: dict[str, Any] = {"inline": _inline, "md": _escaped, "md_table": _md_table}
    environment.filters |= filters
    return environment.get_template(template).render(page=page)


def _inline(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(figure.file.read_bytes()).decode()


def _escaped(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _md_table(table: Table) -> str:
    lines = [[_escaped(column) for column in table.columns]]
    lines.append(["---" if i == 0 or table.wide else "---:" for i in range(len(table.columns))])
    lines += [[_md_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _md_cell(cell: Cell) -> str:
    return f"**{_escaped(cell.text)}**" if cell.strong else _escaped(cell.text)


def _how_many(beyond: Sequence[ComparedGroup], compared: Sequence[ComparedGroup], metric: Metric) -> str:
    of, whose = len(compared), "the baseline" if len({id(one.baseline) for one in compared}) == 1 else "their controls"
    number = f"{len(beyond) or 'none'} {'has' if len(beyond) <= 1 else 'have'}"
    text = f"Of {count(of, 'difference')} to {whose}, {number} a 95% interval that excludes zero"
    told = [_difference(group, metric) for group in beyond[:TOLD]]
    more = f", and {len(beyond) - TOLD} more" if len(beyond) > TOLD else ""
    return text + (f": {'; '.join(told)}{more}." if told else ".")


def _difference(group: ComparedGroup, metric: Metric) -> str:
    found = group.difference
    assert found is not None and group.baseline is not None
    bounds = interval(metric.difference(found.low), metric.difference(found.high))
    unit = " points" if metric.percent else ""
    who = f"{group.label} less {group.baseline.label}"
    return f"{who} {metric.difference(found.mean)}{unit} {bounds}, {len(found.seeds)} pairs"


def _pairs(groups: Sequence[ComparedGroup]) -> str:
    return "; ".join(f"{one.label} and {one.baseline.label}" for one in groups if one.baseline is not None)


def _spread(result: Sample, metric: Metric) -> str:
    if result.low is None:
        return " (one seed)"
    return f" (95% interval {metric.text(result.low)} to {metric.text(result.high)}, n = {result.n})"
