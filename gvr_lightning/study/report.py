"""A study's report: the registered comparison first, then tuning and failures; all else is gvr-report's."""

import shlex
from collections.abc import Sequence

from gvr_lightning.errors import UserError
from gvr_lightning.files import atomic
from gvr_lightning.report.metrics import Metric, p_value
from gvr_lightning.report.page import Page, Part, Section, html, markdown
from gvr_lightning.report.provenance import versions_table
from gvr_lightning.report.runs import CUT, Run
from gvr_lightning.report.settings import Settings
from gvr_lightning.report.tables import Table
from gvr_lightning.report.terminal import plain_text
from gvr_lightning.report.write import write_report
from gvr_lightning.study.folder import Registered
from gvr_lightning.study.outcomes import Read
from gvr_lightning.study.plan import Plan
from gvr_lightning.study.rule import Verdict
from gvr_lightning.study.state import State
from gvr_lightning.study.tables import (
    arms_table,
    chosen_table,
    cost_table,
    failed_table,
    looks_table,
    pairs_table,
    verdict_table,
)
from gvr_lightning.study.trials import CONFIRMATION

REPORT = "report/report.html"
METHOD = (
    "A candidate wins only if it beats every comparator: its p is the largest of its paired t tests, two-sided, and 1"
    " where a difference is not in the better direction. Over several candidates p is held to Holm's levels.",
    "Each look has its level, which was registered; a candidate that has won at one stays a winner. The chance that any"
    " candidate wins which is no better than all comparators is at most half of the levels' sum.",
    "A candidate with a run that failed does not win. A comparator's failed run takes its pair out of the comparison.",
    "Tuning is successive halving: of an arm's configurations each rung keeps those with the best mean over its seeds;"
    " of equals the one that stands first in the grid; a run that diverged is worse than any other. At its end every"
    " arm gets as many further configurations: beyond the grid's edge where the winner stands on it, or beside it.",
    "The seeds of the confirmation are none of the tuning's. The arms of a seed ran one after the other, in a random"
    " order, on one machine.",
)


def write_study(plan: Plan, found: Registered, state: State, read: Read) -> str:
    """Write ``study.html``, ``study.md`` and gvr-report's page over the fresh seeds.

    Returns:
        What to print.
    """
    look, verdicts = state.looks[-1]
    outcomes = [(trial, read(trial, _metric(plan, trial.place))) for trial in state.trials]
    tables = [verdict_table(plan, verdicts), pairs_table(plan, verdicts), looks_table(plan, state)]
    tables += [arms_table(plan, state, read)]
    if plan.tuning is not None:
        tables += [chosen_table(plan, state), cost_table(plan, state, read)]
    opening = _opening(plan, found, look.seeds, verdicts)
    runs = [outcome.run for _, outcome in outcomes if outcome.run is not None and outcome.is_finished]
    failed = failed_table(outcomes)
    rest = _rest(plan)
    page = _page(plan, opening, tables, failed, runs)
    for name, text in (("study.html", html(page)), ("study.md", markdown(page))):
        atomic(plan.folder / name, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    lines = [line for table in [*tables, failed] if table.rows for line in ["", *plain_text(table), *table.notes]]
    return "\n".join([*opening, *lines, "", str(plan.folder / "study.html"), *rest])


def _opening(plan: Plan, found: Registered, seeds: int, verdicts: dict[str, Verdict]) -> list[str]:
    """The answer, and what it rests on."""
    comparison = plan.comparison
    against = f"{'every one of ' * (len(comparison.comparators) > 1)}{', '.join(comparison.comparators)}"
    words = Metric(comparison.metric).words
    won = [name for name, verdict in verdicts.items() if verdict.wins]
    if won:
        told = " and ".join(f"{name} (p = {p_value(verdicts[name].p)})" for name in won)
        answer = f"{told} {'beats' if len(won) == 1 else 'beat'} {against} in {words}, over {seeds} fresh seeds."
    else:
        answer = f"No candidate beats {against} in {words}, over {seeds} fresh seeds."
    registered = f"Registered before anything ran: plan {found.sha256[:CUT]}, code {found.commit}."
    return [answer.replace("= <", "< "), registered]


def _page(plan: Plan, opening: Sequence[str], tables: Sequence[Table], failed: Table, runs: Sequence[Run]) -> Page:
    nothing = Table("", [], [])
    parts = [Part("Registered comparison", "", [Section("", "", [], tables[:4], [], [])], nothing, [])]
    if tables[4:]:
        parts.append(Part("Tuning", "", [Section("", "", [], tables[4:], [], [])], nothing, []))
    again = shlex.join(["gvr-study", str(plan.file)])
    beside = {"study.md": "", REPORT: "the fresh seeds: all metrics, costs and curves"}
    beside = {name: words for name, words in beside.items() if name != REPORT or (plan.folder / name).exists()}
    title = "/".join(plan.file.parts[-2:])
    return Page(title, opening, [], parts, failed, versions_table(runs), METHOD, again, {}, beside)


def _rest(plan: Plan) -> list[str]:
    """gvr-report over the fresh seeds: all metrics, costs, curves."""
    folder, out = plan.folder / CONFIRMATION, plan.folder / "report"
    arguments = (str(folder), f"out={out}", f"metric={plan.comparison.metric}")
    try:
        write_report(Settings((folder,), out, metric=plan.comparison.metric, arguments=arguments))
    except UserError as error:  # every run has failed: the study's own page says so
        return [str(error)]
    return [str(plan.folder / REPORT)]


def _metric(plan: Plan, place: str) -> str:
    return plan.comparison.metric if place.startswith(CONFIRMATION) or plan.tuning is None else plan.tuning.metric
