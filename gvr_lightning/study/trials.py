"""One run of a study: where it lies, and the command line that it is."""

import re
from dataclasses import dataclass

from gvr_lightning.study.plan import Plan, Values, digest
from gvr_lightning.study.search import setting_texts

TUNING, CONFIRMATION = "tuning", "confirmation"  # folders of a study
LONGEST = 60  # characters of a folder that say what is in it


@dataclass(frozen=True)
class Trial:
    """A run."""

    arm: str
    values: Values
    epochs: int
    seed: int
    place: str  # its folder, below the study's
    name: str  # what its configuration is called, by which its folder is known
    overrides: tuple[str, ...]  # its command line, but for the folder

    @property
    def words(self) -> str:
        """For a reader."""
        return " ".join([self.arm, *setting_texts(self.values), f"epochs={self.epochs} seed={self.seed}"])


def tuning_trial(plan: Plan, arm: str, values: Values, epochs: int, seed: int) -> Trial:
    """The run of a configuration that is tried."""
    label = re.sub(r"[^\w.=-]", "-", "_".join(setting_texts(values)))[:LONGEST]
    own = f"{label}-{digest(values)[:6]}"
    return _trial(plan, arm, values, epochs, seed, f"{TUNING}/{arm}/{own}/epochs_{epochs}_seed_{seed}")


def confirmation_trial(plan: Plan, arm: str, values: Values, epochs: int, seed: int) -> Trial:
    """The run of an arm's chosen configuration with a fresh seed."""
    return _trial(plan, arm, values, epochs, seed, f"{row_of(seed)}/{arm}")


def row_of(seed: int) -> str:
    """Where the runs of one seed lie, which are compared with each other."""
    return f"{CONFIRMATION}/seed_{seed}"


def _trial(plan: Plan, arm: str, values: Values, epochs: int, seed: int, place: str) -> Trial:
    what = [*plan.setting, *plan.arms[arm].overrides, *setting_texts(values), f"epochs={epochs}", f"seed={seed}"]
    name = f"{arm}-{digest(what)[:8]}"
    return Trial(arm, values, epochs, seed, place, name, (*what, f"name={name}", "resume=auto"))
