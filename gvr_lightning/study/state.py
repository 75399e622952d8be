"""How far a study has come: the stages that it needed, what was chosen, what the looks said."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gvr_lightning.study.plan import Look, Values
from gvr_lightning.study.rule import Verdict
from gvr_lightning.study.trials import Trial


@dataclass(frozen=True)
class Stage:
    """Runs that may go side by side; a row's go one after the other, on one machine."""

    heading: str
    metric: str
    rows: Sequence[Sequence[Trial]]

    @property
    def trials(self) -> list[Trial]:
        """All of them."""
        return [trial for row in self.rows for trial in row]


@dataclass
class Chosen:
    """An arm's configuration after tuning."""

    values: Values
    score: float | None = None  # in tuning, at its end
    edges: list[str] = field(default_factory=list)  # keys on whose edge the grid's winner was
    further: list[str] = field(default_factory=list)  # what was tried beside it
    moved: bool = False  # whether one of those won


@dataclass
class State:
    """How far a study has come."""

    stages: list[Stage] = field(default_factory=list)  # the last one is open unless all is done
    chosen: dict[str, Chosen] = field(default_factory=dict)
    looks: list[tuple[Look, dict[str, Verdict]]] = field(default_factory=list)
    done: bool = False

    @property
    def trials(self) -> list[Trial]:
        """All that were needed so far, each once."""
        return list({trial.place: trial for stage in self.stages for trial in stage.trials}.values())
