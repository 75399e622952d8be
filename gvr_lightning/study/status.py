"""How far a study is, without torch: what is done, running and left, and for how long."""

from collections.abc import Mapping

from gvr_lightning.report.cost import cost_of
from gvr_lightning.report.tables import Cell, Table
from gvr_lightning.report.terminal import plain_text
from gvr_lightning.study.check import check_arms
from gvr_lightning.study.folder import REGISTERED, is_taken, registered
from gvr_lightning.study.outcomes import Read, reader
from gvr_lightning.study.plan import Plan
from gvr_lightning.study.schedule import Replay
from gvr_lightning.study.state import Stage, State


def status(plan: Plan) -> str:
    """What to print.

    Raises:
        UserError: for a folder of another study, or a mistake in a plan that was not begun.
    """
    found = registered(plan)
    if found is None:
        return _not_begun(plan)
    read, at_work = reader(plan), is_taken(plan.folder)
    state = Replay(plan, found.epochs, read).state()
    columns = ["", "runs", "finished", "failed", "crashed", "running" if at_work else "begun", "left"]
    rows = [_line(stage, read) for stage in state.stages]
    table = plain_text(Table(f"{plan.folder}: plan {found.sha256[:12]}, code {found.commit}", columns, rows))
    ends = "all runs are done" if state.done else _ahead(plan, found.epochs, state, read)
    return "\n".join([*table, ends, "at work" if at_work else f"at rest: gvr-study {plan.file} goes on"])


def _not_begun(plan: Plan) -> str:
    """What stands before whoever begins it, once the plan is known to be right."""
    epochs, read = check_arms(plan), reader(plan)
    ahead = _ahead(plan, epochs, Replay(plan, epochs, read).state(), read)
    not_begun = f"{plan.folder}: not begun (there is no {REGISTERED}); {ahead}"
    return f"{not_begun}\nThe plan is right: gvr-study {plan.file} begins it"


def _line(stage: Stage, read: Read) -> list[Cell]:
    outcomes = [read(trial, stage.metric) for trial in stage.trials]
    open_ones = [found for found in outcomes if found.is_open]
    counts = [len(outcomes), sum(x.is_finished for x in outcomes), sum(bool(x.failed) for x in outcomes)]
    counts += [sum(bool(x.crashed) for x in open_ones), sum(x.begun and not x.crashed for x in open_ones)]
    return [Cell(stage.heading), *(Cell(str(n)) for n in [*counts, len(open_ones)])]


def _ahead(plan: Plan, epochs: Mapping[str, int], state: State, read: Read) -> str:
    """How much is left at most, by the seconds of an arm's epochs so far, or of any arm's."""
    seconds, trained = dict.fromkeys(plan.arms, 0.0), dict.fromkeys(plan.arms, 0)
    for stage in state.stages:
        for trial in stage.trials:
            found = read(trial, stage.metric)
            if found.is_finished and found.run is not None:
                seconds[trial.arm] += cost_of(found.run, "seconds") or 0.0
                trained[trial.arm] += trial.epochs
    runs, left = _left(plan, epochs, state, read)
    if not any(trained.values()):
        return f"{runs} runs left at most; how long they take shows once one has finished"
    of_any = sum(seconds.values()) / sum(trained.values())
    total = sum(n * (seconds[arm] / trained[arm] if trained[arm] else of_any) for arm, n in left.items())
    return f"{runs} runs left at most, some {duration(total)} of training in all, whatever goes side by side"


def _left(plan: Plan, epochs: Mapping[str, int], state: State, read: Read) -> tuple[int, dict[str, float]]:
    """Runs, and epochs by arm: what is open, and what follows if no look ends the study."""
    runs, left = 0, dict.fromkeys(plan.arms, 0.0)

    def add(number: int, length: float) -> None:
        nonlocal runs
        for arm in left:
            runs += number
            left[arm] += number * max(1, round(length * epochs[arm]))

    for stage in state.stages:
        for trial in stage.trials:
            if read(trial, stage.metric).is_open:
                runs += 1
                left[trial.arm] += trial.epochs
    rungs = plan.tuning.rungs if plan.tuning else ()
    ahead = max(0, len(rungs) + (1 if plan.tuning and plan.tuning.further else 0) - len(state.stages))
    if plan.tuning and ahead:
        kept = [plan.tuning.configurations, *(rung.keep for rung in rungs)]
        for i, rung in list(enumerate(rungs))[len(state.stages) :]:
            before = [seed for other in rungs[:i] if other.length == rung.length for seed in other.seeds]
            add(kept[i] * len(set(rung.seeds) - set(before)), rung.length)
        add(plan.tuning.further * len(rungs[-1].seeds), rungs[-1].length)
    begun = {trial.seed for stage in state.stages for trial in stage.trials if trial.place.startswith("confirmation")}
    add(len(set(plan.seeds) - begun), 1.0)
    return runs, left


def duration(seconds: float) -> str:
    """In the unit that a reader wants."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
