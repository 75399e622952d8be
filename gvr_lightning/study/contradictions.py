"""What several keys of a plan say together."""

from gvr_lightning.config.wording import nearest, show
from gvr_lightning.errors import UserError
from gvr_lightning.report.metrics import Metric
from gvr_lightning.study.plan import Plan


def refuse_contradictions(plan: Plan) -> None:
    """See that a plan can be carried out.

    Raises:
        UserError: for the first contradiction.
    """
    if len(plan.seeds) < 2:
        raise UserError("confirmation.seeds: a comparison takes two seeds at the least")
    named = {"candidates": plan.comparison.candidates, "comparators": plan.comparison.comparators}
    for what, names in named.items():
        for name in names:
            if name not in plan.arms:
                near = nearest(name, plan.arms)
                hint = f"did you mean {near}?" if near else f"there is {', '.join(plan.arms)}"
                raise UserError(f"comparison.{what}: there is no arm {name}; {hint}")
        if len(set(names)) < len(names):
            raise UserError(f"comparison.{what}={show(list(names))}: an arm stands there twice")
    if both := set(plan.comparison.candidates) & set(plan.comparison.comparators):
        raise UserError(f"comparison: {sorted(both)[0]} is candidate and comparator")
    _check_tuning(plan)


def _check_tuning(plan: Plan) -> None:
    tuning = plan.tuning
    if tuning is None:
        if searched := [name for name, arm in plan.arms.items() if arm.search]:
            raise UserError(f"arms.{searched[0]}.search: nothing is searched without tuning")
        return
    metric = Metric(tuning.metric)
    if not metric.direction or tuning.metric.startswith("test/"):
        why = "a test figure chooses nothing" if metric.direction else "neither higher nor lower is known to be better"
        raise UserError(f"tuning.metric={tuning.metric}: {why}; such as val/acc")
    kept = tuning.configurations
    for i, rung in enumerate(tuning.rungs):
        if rung.keep > kept:
            raise UserError(f"tuning.rungs.{i}.keep={rung.keep}: only {kept} configurations come to it")
        kept = rung.keep
        if again := set(rung.seeds) & set(plan.seeds):
            raise UserError(
                f"confirmation.seeds: {min(again)} is a seed of the tuning; the confirmation needs fresh ones"
            )
    if kept != 1:
        raise UserError(f"tuning.rungs.{len(tuning.rungs) - 1}.keep={kept}: the last rung keeps 1")
