"""Which runs a study needs next: a pure function of its plan and of how its runs have ended so far.

Replayed from the start each time, so there is no state that a kill could leave half written.
"""

from collections.abc import Mapping, Sequence

from gvr_lightning.errors import UserError
from gvr_lightning.report.metrics import Metric
from gvr_lightning.study.outcomes import Read
from gvr_lightning.study.plan import Plan, Rung, Values, draw
from gvr_lightning.study.rule import judge
from gvr_lightning.study.search import at_edge, configurations, further
from gvr_lightning.study.state import Chosen, Stage, State
from gvr_lightning.study.trials import Trial, confirmation_trial, tuning_trial


class Replay:
    """A study's stages in order, as far as they are known.

    Args:
        plan: the plan.
        epochs: of each arm.
        read: how a run ended.
    """

    def __init__(self, plan: Plan, epochs: Mapping[str, int], read: Read) -> None:
        self.plan, self.epochs, self.read = plan, epochs, read
        self.reached = State()

    def state(self) -> State:
        """As far as the runs that have ended lead."""
        self.reached = State()
        self.reached.done = self._tuned() and self._confirmed()
        return self.reached

    def _tuned(self) -> bool:
        """Successive halving: every arm's configurations, of which each rung keeps the best."""
        tuning, alive = self.plan.tuning, {name: configurations(self.plan, name) for name in self.plan.arms}
        for i, rung in enumerate(tuning.rungs if tuning else ()):
            if not self._settled(f"tuning, rung {i + 1} of {len(tuning.rungs if tuning else ())}", rung, alive):
                return False
            alive = {name: self._best(name, alive[name], rung)[: rung.keep] for name in alive}
        winners = {name: values[0] for name, values in alive.items()}
        self.reached.chosen = {name: Chosen(values) for name, values in winners.items()}
        return tuning is None or self._extended(winners, tuning.rungs[-1], tuning.further)

    def _extended(self, winners: Mapping[str, Values], rung: Rung, number: int) -> bool:
        """As many further configurations for each arm: one that ends at the edge of its grid has not been tuned."""
        found: dict[str, list[Values]] = {}
        for name, winner in winners.items():
            chosen = self.reached.chosen[name]
            chosen.edges = at_edge(self.plan.arms[name], winner)
            new = list(further(self.plan.arms[name], winner))[:number]
            found[name], chosen.further = [values for values, _ in new], [what for _, what in new]
        if any(found.values()) and not self._settled("tuning, beyond and beside the winners", rung, found):
            return False
        for name, winner in winners.items():
            chosen = self.reached.chosen[name]
            chosen.values = self._best(name, [winner, *found[name]], rung)[0]
            chosen.moved = chosen.values != winner
            score = self._score(name, chosen.values, rung)
            if score is None:
                raise UserError(f"arms.{name}: no configuration of its search has trained to the end, so there is none"
                                " to confirm; another plan needs a folder of its own")  # fmt: skip
            chosen.score = score
        return True

    def _confirmed(self) -> bool:
        """The fresh seeds up to each look, until every candidate has won or all looks are over."""
        won: frozenset[str] = frozenset()
        before, comparison = 0, self.plan.comparison
        for i, look in enumerate(self.plan.looks):
            seeds = self.plan.seeds[before : look.seeds]
            rows = [self._row(seed) for seed in seeds]
            if not self._add(Stage(f"confirmation, look {i + 1} of {len(self.plan.looks)}", comparison.metric, rows)):
                return False
            seen = self.plan.seeds[: look.seeds]
            verdicts = judge(self._values(seen), seen, comparison, look.alpha, won)
            self.reached.looks.append((look, verdicts))
            won = frozenset(name for name, verdict in verdicts.items() if verdict.wins)
            if len(won) == len(comparison.candidates):
                break
            before = look.seeds
        return True

    def _row(self, seed: int) -> list[Trial]:
        arms: list[str] = draw(list(self.plan.arms), self.plan.seed, "row", seed)
        chosen = self.reached.chosen
        return [confirmation_trial(self.plan, arm, chosen[arm].values, self.epochs[arm], seed) for arm in arms]

    def _values(self, seeds: Sequence[int]) -> dict[str, dict[int, float]]:
        """The registered metric by arm and seed, of runs that have one."""
        found: dict[str, dict[int, float]] = {name: {} for name in self.plan.arms}
        for trial in (trial for seed in seeds for trial in self._row(seed)):
            value = self.read(trial, self.plan.comparison.metric).value(self.plan.comparison.metric)
            if value is not None:
                found[trial.arm][trial.seed] = value
        return found

    def _settled(self, heading: str, rung: Rung, alive: Mapping[str, Sequence[Values]]) -> bool:
        trials = [t for name, several in alive.items() for values in several for t in self._trials(name, values, rung)]
        rows = [[trial] for trial in draw(trials, self.plan.seed, heading)]
        assert self.plan.tuning is not None
        return self._add(Stage(heading, self.plan.tuning.metric, rows))

    def _add(self, stage: Stage) -> bool:
        """Whether all of its runs have ended."""
        self.reached.stages.append(stage)
        return not any(self.read(trial, stage.metric).is_open for trial in stage.trials)

    def _trials(self, name: str, values: Values, rung: Rung) -> list[Trial]:
        epochs = max(1, round(rung.length * self.epochs[name]))
        return [tuning_trial(self.plan, name, values, epochs, seed) for seed in rung.seeds]

    def _best(self, name: str, several: Sequence[Values], rung: Rung) -> list[Values]:
        """The best first; of equals the one that stands first; what has failed last."""
        scores = {values: self._score(name, values, rung) for values in several}
        return sorted(several, key=lambda values: (scores[values] is None, -(scores[values] or 0.0)))

    def _score(self, name: str, values: Values, rung: Rung) -> float | None:
        """The mean over the rung's seeds, higher is better; None if a run has failed, which is worse than any."""
        assert self.plan.tuning is not None
        metric = self.plan.tuning.metric
        found = [self.read(trial, metric).value(metric) for trial in self._trials(name, values, rung)]
        known = [value for value in found if value is not None]
        return Metric(metric).direction * sum(known) / len(known) if len(known) == len(found) else None
