"""How a study's runs ended, read off their folders: nothing else is kept, so a study may be killed at any moment."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gvr_lightning.config.wording import suggest
from gvr_lightning.errors import UserError
from gvr_lightning.files import atomic, read_json
from gvr_lightning.report.runs import FINISHED, Run, read_run
from gvr_lightning.study.plan import Plan
from gvr_lightning.study.trials import Trial

CRASH = "crash.json"  # in a run's folder: how often it has ended without a result, and how
TRIES = 2  # after which a crashed run counts as failed


@dataclass(frozen=True)
class Outcome:
    """Of a run: finished, failed for good, or open."""

    run: Run | None  # what it left
    failed: str = ""  # why it has no figure and never will
    crashed: str = ""  # how it ended the last time, if it is to be tried again
    begun: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether it has its figures."""
        return self.run is not None and self.run.status == FINISHED and not self.failed

    @property
    def is_open(self) -> bool:
        """Whether it is to run, or to go on."""
        return not self.is_finished and not self.failed

    def value(self, metric: str) -> float | None:
        """A figure of a finished run; None of a failed one."""
        return self.run.metrics.get(metric) if self.run is not None and self.is_finished else None


Read = Callable[[Trial, str], Outcome]  # how a run ended, by the metric that it is needed for


def outcome(study: Path, trial: Trial, metric: str) -> Outcome:
    """What is known of a run.

    Args:
        study: the study's folder.
        trial: the run.
        metric: that it is needed for.

    Raises:
        UserError: for another run in its folder, or one without the metric.
    """
    folder = study / trial.place
    if not folder.is_dir():
        return Outcome(None)
    run = read_run(folder, trial.place)
    if run.config and run.config.get("name") != trial.name:
        raise UserError(f"{folder} holds another run than the plan has there ({run.config.get('name')}): move it away")
    if run.status == FINISHED:
        if run.metrics.get(metric) is None:
            raise UserError(f"{metric}: the run in {folder} has no such figure; {suggest(metric, run.metrics)}")
        return Outcome(run, begun=True)
    if run.status == "failed" and run.summary.get("diverged") is True:
        return Outcome(run, failed=f"diverged: {run.reason}", begun=True)
    count, error = _crashes(folder)
    if count >= TRIES:
        return Outcome(run, failed=f"crashed {count} times: {error}", begun=True)
    return Outcome(run, crashed=error, begun=True)


def reader(plan: Plan, settled: dict[tuple[str, str], Outcome] | None = None) -> Read:
    """Reads each run's folder once.

    Args:
        plan: the study's.
        settled: outcomes that change no more, which are kept here from one reader to the next.
    """
    settled = {} if settled is None else settled
    known: dict[tuple[str, str], Outcome] = {}

    def read(trial: Trial, metric: str) -> Outcome:
        key = trial.place, metric
        if key not in settled and key not in known:
            found = outcome(plan.folder, trial, metric)
            (known if found.is_open else settled)[key] = found
        return settled.get(key) or known[key]

    return read


def note_crash(folder: Path, error: str) -> None:
    """Keep that a run ended without a result, through nothing that a metric could tell."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"count": _crashes(folder)[0] + 1, "error": error}
    atomic(folder / CRASH, lambda temporary: temporary.write_text(json.dumps(content) + "\n", encoding="utf-8"))


def _crashes(folder: Path) -> tuple[int, str]:
    path = folder / CRASH
    if not path.exists():
        return 0, ""
    try:
        found = read_json(path)
        return int(found["count"]), str(found["error"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}; remove it") from error
