"""What a study has found, as tables for the page and the terminal."""

from collections.abc import Iterable, Sequence

from gvr_lightning.report.cost import COSTS, cost_of
from gvr_lightning.report.metrics import NONE, Metric, number, p_value
from gvr_lightning.report.statistics import Paired, sample
from gvr_lightning.report.tables import IDENTICAL, Cell, Table, interval
from gvr_lightning.study.outcomes import Outcome, Read
from gvr_lightning.study.plan import Plan
from gvr_lightning.study.rule import Verdict, detectable, of_each, p_better, pairs_needed, spread
from gvr_lightning.study.search import setting_texts
from gvr_lightning.study.state import State
from gvr_lightning.study.trials import TUNING, Trial


def verdict_table(plan: Plan, verdicts: dict[str, Verdict]) -> Table:
    """The registered comparison: a candidate against the comparator that it is told from least."""
    metric = Metric(plan.comparison.metric)
    columns = ["candidate", "hardest comparator", "difference", "p, largest", "level by Holm", "verdict"]
    rows = []
    for name, verdict in verdicts.items():
        hardest = max(verdict.pairs, key=lambda other: p_better(verdict.pairs[other], metric.direction))
        pair = verdict.pairs[hardest]
        cells = [hardest, metric.difference(pair.mean if pair else None), p_value(verdict.p), f"{verdict.level:.4f}"]
        cells.append("wins" if verdict.wins else "does not win")
        rows.append([Cell(name), *map(Cell, cells)])
    return Table(f"Verdict: {metric.heading}", columns, rows)


def pairs_table(plan: Plan, verdicts: dict[str, Verdict]) -> Table:
    """Every candidate less every comparator, with what so many pairs can tell."""
    comparison, metric = plan.comparison, Metric(plan.comparison.metric)
    alpha = plan.looks[-1].alpha / len(comparison.candidates)
    power = of_each(comparison.power, len(comparison.comparators))
    wanted = "of the planned difference" if comparison.difference is not None else "of this difference"
    columns = ["candidate less comparator", "difference", "95% interval", "p, two-sided", "pairs", "detectable",
               f"pairs needed, {wanted}"]  # fmt: skip
    rows = []
    for name, verdict in verdicts.items():
        for other, pair in verdict.pairs.items():
            cells = [*_difference(pair, metric), *_power(pair, metric, comparison.difference, alpha, power)]
            rows.append([Cell(f"{name} less {other}"), *cells])
    note = (
        "Detectable is what so many pairs, of the spread that was found, tell from zero with a chance of"
        f" {power:.3g} at the last look (level {alpha:.3g}, two-sided, the strictest of Holm): so that every comparator"
        f" is beaten with one of {comparison.power:g}, or more."
    )
    return Table(f"Candidates less comparators: {metric.heading}", columns, rows, notes=[note])


def looks_table(plan: Plan, state: State) -> Table:
    """When it was looked at, and what was decided."""
    rows = []
    for i, look in enumerate(plan.looks):
        made = state.looks[i][1] if i < len(state.looks) else None
        won = [name for name, verdict in (made or {}).items() if verdict.wins]
        what = "not made: all had won" if made is None else ", ".join(won) if won else "none"
        rows.append([Cell(f"look {i + 1}"), Cell(str(look.seeds)), Cell(f"{look.alpha:g}"), Cell(what)])
    return Table("Sequential looks", ["look", "seeds", "level", "candidates that have won"], rows, wide=True)


def arms_table(plan: Plan, state: State, read: Read) -> Table:
    """Mean and spread of every arm over the fresh seeds."""
    metric = Metric(plan.comparison.metric)
    rows = []
    for name in plan.arms:
        found = [read(trial, metric.name).value(metric.name) for trial in _confirmed(state) if trial.arm == name]
        values = [value for value in found if value is not None]
        if not values:
            rows.append([Cell(name), Cell(f"0 of {len(found)}"), Cell(NONE), Cell(NONE)])
            continue
        result = sample(values)
        spread = "" if result.sd is None else f" ± {metric.text(result.sd)}"
        bounds = interval(metric.text(result.low), metric.text(result.high))
        n = str(result.n) if len(values) == len(found) else f"{result.n} of {len(found)}"
        rows.append([Cell(name), Cell(n), Cell(f"{metric.text(result.mean)}{spread}"), Cell(bounds)])
    return Table(f"Every arm, fresh seeds: {metric.heading}", ["arm", "n", "mean ± sd", "95% interval"], rows)


def chosen_table(plan: Plan, state: State) -> Table:
    """What tuning chose for each arm."""
    assert plan.tuning is not None
    metric, rows = Metric(plan.tuning.metric), []
    for name, chosen in state.chosen.items():
        score = None if chosen.score is None else metric.direction * chosen.score
        beyond = ", ".join(chosen.further) or "nothing"
        cells = [" ".join(setting_texts(chosen.values)), metric.text(score), ", ".join(chosen.edges) or NONE, beyond]
        rows.append([Cell(name), *map(Cell, [*cells, "yes" if chosen.moved else "no"])])
    columns = ["arm", "chosen", metric.heading, "grid's winner at the edge of", "tried besides", "and chosen"]
    return Table("What tuning chose", columns, rows, wide=True)


def cost_table(plan: Plan, state: State, read: Read) -> Table:
    """What tuning took, arm by arm: it is part of a method's cost."""
    tuned = [trial for trial in state.trials if trial.place.startswith(f"{TUNING}/")]
    columns, rows = ["arm", "configurations", "runs", *COSTS.values()], []
    for name in plan.arms:
        own = [trial for trial in tuned if trial.arm == name]
        outcomes = [read(trial, plan.tuning.metric if plan.tuning else "") for trial in own]
        counts = [str(len({trial.values for trial in own})), str(len(own))]
        rows.append([Cell(name), *map(Cell, counts), *(Cell(_spent(outcomes, cost)) for cost in COSTS)])
    return Table("What tuning took", columns, rows)


def failed_table(trials: Iterable[tuple[Trial, Outcome]]) -> Table:
    """Every run that has no figure, with the reason."""
    rows = [[Cell(trial.place), Cell(trial.words), Cell(found.failed)] for trial, found in trials if found.failed]
    return Table("Runs that failed", ["folder", "run", "why"], rows, wide=True)


def _confirmed(state: State) -> list[Trial]:
    return [trial for trial in state.trials if not trial.place.startswith(f"{TUNING}/")]


def _difference(pair: Paired | None, metric: Metric) -> list[Cell]:
    if pair is None:
        return [Cell(NONE), Cell(NONE), Cell(NONE), Cell("0")]
    if pair.identical:
        return [Cell(IDENTICAL), Cell(NONE), Cell(NONE), Cell(str(len(pair.seeds)))]
    bounds = interval(metric.difference(pair.low), metric.difference(pair.high))
    texts = [bounds, p_value(pair.p), str(len(pair.seeds))]
    return [Cell(metric.difference(pair.mean), pair.excludes_zero), *map(Cell, texts)]


def _power(pair: Paired | None, metric: Metric, planned: float | None, alpha: float, power: float) -> Sequence[Cell]:
    """The difference that the pairs can tell, and how many a difference takes."""
    sd = None if pair is None else spread(pair)
    if pair is None or sd is None:
        return Cell(NONE), Cell(NONE)
    found = detectable(len(pair.seeds), alpha, power) * sd
    needed = pairs_needed(abs(planned if planned is not None else pair.mean) / sd, alpha, power)
    return Cell(metric.text(found)), Cell(NONE if needed is None else str(needed))


def _spent(outcomes: Sequence[Outcome], cost: str) -> str:
    """The sum over runs that recorded it, failed ones too."""
    runs = [found.run for found in outcomes if found.run is not None and found.run.summary.get("train")]
    values = [value for run in runs if (value := cost_of(run, cost)) is not None]
    return NONE if not values else number(sum(values)) if cost == "seconds" else f"{sum(values):,.0f}"
