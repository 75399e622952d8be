"""What ``gvr-report`` does: runs in, a folder with the page, its tables and its figures out."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from gvr_lightning.config.wording import suggest
from gvr_lightning.errors import UserError
from gvr_lightning.report.controls import set_baselines
from gvr_lightning.report.curves import draw_logged_curves
from gvr_lightning.report.figures import Figure, Look, draw_differences, draw_final, draw_samples, looks
from gvr_lightning.report.groups import Comparison, Setting, compare
from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.page import METHOD, Page, Part, Section, count, html, markdown, outcome, runs_found
from gvr_lightning.report.provenance import commands, common, versions_table, warnings
from gvr_lightning.report.published import Published, not_drawn, read_published
from gvr_lightning.report.runs import FINISHED, Run, find_runs
from gvr_lightning.report.settings import Settings
from gvr_lightning.report.sheets import Record, group_record, run_records, write_csv
from gvr_lightning.report.tables import (
    ComparedGroup,
    compared_groups,
    cost_table,
    differences_table,
    further_metrics,
    left_out_table,
    metrics_table,
    plain_table,
    result_table,
)
from gvr_lightning.report.terminal import plain_text, result_text

BESIDE = {"report.md": "", "table.csv": "one row a configuration", "runs.csv": "one row a run"}


def write_report(settings: Settings) -> str:
    """Write the report.

    Returns:
        What to print: the opening, the tables of results, and where the page is.

    Raises:
        UserError: if no run can be averaged, or for a metric, baseline or file that is not there.
    """
    published = read_published(settings.published)
    runs = find_runs(settings.folders)
    comparisons = compare(runs, settings.metric)
    if not comparisons:
        raise UserError(_nothing(runs, settings))
    set_baselines(comparisons, settings.baseline)
    settings.out.mkdir(parents=True, exist_ok=True)
    labels = [group.label for c in comparisons for setting in c.settings for group in setting.groups]
    styles, records, opening = looks(labels), [], [runs_found(runs, comparisons)]
    parts = []
    for comparison in comparisons:
        part, lines = _part(comparison, styles, published, settings.out)
        parts.append(part)
        records += lines
        opening += [section.outcome for section in part.sections if section.outcome]
    notes = [text for comparison in comparisons for text in warnings(comparison)]
    notes += not_drawn(published, [comparison.task for comparison in comparisons])
    averaged = [run for comparison in comparisons for run in comparison.runs]
    again = " ".join(shlex.join(["gvr-report", *settings.arguments]).split("\n"))
    versions, left_out = versions_table(averaged), left_out_table(runs)
    page = Page(settings.title, opening, notes, parts, left_out, versions, METHOD, again, styles, BESIDE)
    (settings.out / "report.html").write_text(html(page), encoding="utf-8")
    (settings.out / "report.md").write_text(markdown(page), encoding="utf-8")
    write_csv(settings.out / "table.csv", records)
    write_csv(settings.out / "runs.csv", run_records(runs, comparisons))
    tables = [line for part in parts for section in part.sections for line in ["", *section_text(section)]]
    return "\n".join([*opening, *tables, "", str(settings.out / "report.html")])


def section_text(section: Section) -> list[str]:
    """A setting's results for the terminal."""
    result, plain, *_ = section.tables
    beside = plain_text(plain)
    heading = [section.heading] if section.heading else []
    return [*heading, *section.missing, *result_text(result), *([""] if beside else []), *beside, *result.notes]


def draw_setting(
    task: str,
    metric: Metric,
    setting: Setting,
    compared: Sequence[ComparedGroup],
    styles: dict[str, Look],
    published: Sequence[Published],
    folder: Path,
    prefix: str,
) -> list[Figure]:
    """All figures of a setting that there are values for, as PNG in ``folder``."""
    final = draw_final(compared, metric, styles, folder / f"{prefix}_final.png")
    differences = draw_differences(compared, metric, styles, folder / f"{prefix}_differences.png")
    curves = draw_logged_curves(task, metric, setting.groups, styles, published, folder, prefix)
    return [final, *([differences] if differences else []), *curves]


def _part(
    comparison: Comparison, styles: dict[str, Look], published: Sequence[Published], folder: Path
) -> tuple[Part, list[Record]]:
    sections, records = [], []
    task, several = re.sub(r"\W+", "-", comparison.task), len(comparison.settings) > 1  # a part of files' names
    for i, setting in enumerate(comparison.settings):
        prefix = f"{task}-{i + 1}" if several else task
        compared = compared_groups(setting, comparison.metric)
        sections.append(_section(comparison, setting, compared, styles, published, folder, prefix))
        records += [group_record(comparison, setting.label, one) for one in compared]
    heading = f"{comparison.task}: {comparison.metric.words}, {count(len(comparison.runs), 'run')}"
    part = Part(heading, common(comparison), sections, differences_table(comparison), commands(comparison.runs))
    return part, records


def _section(
    comparison: Comparison,
    setting: Setting,
    compared: Sequence[ComparedGroup],
    styles: dict[str, Look],
    published: Sequence[Published],
    folder: Path,
    prefix: str,
) -> Section:
    metric = comparison.metric
    tables = [result_table(compared, metric), plain_table(compared, metric), cost_table(compared)]
    tables.append(metrics_table(setting, further_metrics(setting.runs)))
    figures = draw_setting(comparison.task, metric, setting, compared, styles, published, folder, prefix)
    samples = draw_samples(setting.groups, folder, prefix)
    return Section(setting.label, outcome(setting, compared, metric), setting.missing, tables, figures, samples)


def _nothing(runs: Sequence[Run], settings: Settings) -> str:
    """Why there is nothing to average."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    finished = [run for run in runs if run.status == FINISHED]
    if finished and settings.metric is not None and settings.metric not in names:
        return f"metric={settings.metric}: no finished run has it; {suggest(settings.metric, names)}"
    reasons = "; ".join(f"{run.name}: {run.status}: {run.reason}" for run in runs[:3])
    more = f"; and {len(runs) - 3} more" if len(runs) > 3 else ""
    return f"{', '.join(map(str, settings.folders))}: no run to average: {' '.join(reasons.split())}{more}"
