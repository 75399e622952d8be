"""A study from where it is to its end: stage after stage, then the report."""

import sys

from gvr_lightning.config.wording import show
from gvr_lightning.errors import TrainingError, UserError
from gvr_lightning.study.check import check_arms
from gvr_lightning.study.folder import Registered, register, registered, taken
from gvr_lightning.study.launch import launch
from gvr_lightning.study.outcomes import Outcome, reader
from gvr_lightning.study.plan import Plan
from gvr_lightning.study.report import write_study
from gvr_lightning.study.schedule import Replay
from gvr_lightning.study.state import Stage

TOLD = 3  # crashed runs that are told one by one


def run_study(plan: Plan) -> str:
    """Go on with a study, or begin it.

    Returns:
        What to print at its end.

    Raises:
        UserError: for a mistake in the plan or its folder, before anything runs.
        TrainingError: if runs crashed.
        KeyboardInterrupt: if one was interrupted.
    """
    registered(plan)
    epochs = check_arms(plan)
    with taken(plan.folder):
        found = registered(plan) or register(plan, epochs)
        _compare(plan, found, epochs)
        settled: dict[tuple[str, str], Outcome] = {}
        while not (state := Replay(plan, found.epochs, reader(plan, settled)).state()).done:
            _go_on(plan, state.stages[-1], settled)
        return write_study(plan, found, state, reader(plan, settled))


def _go_on(plan: Plan, stage: Stage, settled: dict[tuple[str, str], Outcome]) -> None:
    """Run what of a stage is open."""
    read = reader(plan, settled)
    rows = [row for row in stage.rows if any(read(trial, stage.metric).is_open for trial in row)]
    left = sum(read(trial, stage.metric).is_open for trial in stage.trials)
    print(f"{stage.heading}: {len(stage.trials)} runs, {left} left", flush=True)
    launch(plan.folder, rows, stage.metric, plan.launcher)
    read = reader(plan, settled)
    still = {trial: read(trial, stage.metric) for trial in stage.trials if read(trial, stage.metric).is_open}
    crashed = {trial: found.crashed for trial, found in still.items() if found.crashed}
    if crashed:
        told = "; ".join(f"{trial.words}: {error}" for trial, error in list(crashed.items())[:TOLD])
        more = f"; and {len(crashed) - TOLD} more" if len(crashed) > TOLD else ""
        raise TrainingError(f"{len(crashed)} run(s) crashed: {told}{more}. Mend the cause and type the same line again:"
                            " each is tried once more, then it counts as the worst")  # fmt: skip
    if still:
        raise KeyboardInterrupt


def _compare(plan: Plan, found: Registered, epochs: dict[str, int]) -> None:
    """What may have changed since the study was begun, though its plan has not."""
    if found.epochs != epochs:
        name = next(name for name in epochs if found.epochs.get(name) != epochs[name])
        raise UserError(f"{plan.file}: arms.{name} was begun with epochs={show(found.epochs.get(name))} and has"
                        f" {epochs[name]} now, so the code has changed: go on with commit {found.commit}")  # fmt: skip
    now = Registered.now(plan, epochs)
    if now.commit != found.commit:
        print(f"the study was begun at commit {found.commit}, this is {now.commit}", file=sys.stderr)
