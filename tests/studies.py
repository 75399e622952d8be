"""Studies on made-up runs: whole, in a second, and killed wherever a test wants it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_runs import fake_run

from gvr_lightning.study import job, report
from gvr_lightning.study import run as studying
from gvr_lightning.study.read import read_plan

PLAN: dict[str, Any] = {
    "folder": "study",
    "setting": ["data.max_train=100"],
    "arms": {
        "sgd": {"overrides": ["regularizer=none"], "search": {"lr": [0.01, 0.1, 1.0]}},
        "gvr": {"overrides": ["regularizer=gvr"], "search": {"alpha": [0.1, 1.0], "lr": [0.01, 0.1]}},
    },
    "tuning": {"configurations": 3, "rungs": [{"length": 0.5, "seeds": [100], "keep": 2}, {"seeds": [100, 101]}]},
    "comparison": {"candidates": ["gvr"], "comparators": ["sgd"], "difference": 0.01},
    "confirmation": {"seeds": {"first": 0, "number": 4}},
}
EPOCHS = {"sgd": 6, "gvr": 3}


class Killed(BaseException):
    """The study's process is gone."""


def plan_file(place: Path, /, **changes: Any) -> Path:
    """A plan, with other values for some of its keys; ``None`` leaves one out."""
    content = {key: value for key, value in {**PLAN, **changes}.items() if value is not None}
    path = place / "plan.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def settings(arguments: list[str]) -> dict[str, str]:
    """A run's command line."""
    return dict(text.split("=", 1) for text in arguments)


def figure(arguments: list[str], what: str) -> float:
    """One that depends on the command line alone."""
    own = sorted(text for text in arguments if not text.startswith(("hydra.", "name=")))
    return int(hashlib.sha256(f"{what} {own}".encode()).hexdigest()[:6], 16) / 16**6


class Runs:
    """What stands for ``gvr-train``: it leaves what a run leaves.

    Args:
        behave: called with each command line and the run's folder before it ends; may raise, or return a status.
        value: of a metric.
    """

    def __init__(
        self,
        behave: Callable[[dict[str, str], Path], int | None] = lambda line, folder: None,
        value: Callable[[list[str], str], float] = figure,
    ) -> None:
        self.behave, self.value = behave, value
        self.lines: list[dict[str, str]] = []

    def __call__(self, arguments: list[str], output: Path) -> int:
        line = settings(arguments)
        self.lines.append(line)
        folder = output.parent
        status = self.behave(line, folder)
        if status is not None:
            return status
        figures = {name: self.value(arguments, name) for name in ("val/acc", "test/acc")}
        top = {"name": line["name"], "epochs": int(line["epochs"]), "lr": float(line["lr"])}
        fake_run(folder, line["regularizer"], int(line["seed"]), figures, hydra=False, written=1e9, **top)
        return 0


def stand_in(monkeypatch: pytest.MonkeyPatch, runs: Runs) -> Runs:
    """Have studies run in this process, with such runs, without checks of their command lines and figures of curves."""

    def launch(study: Path, rows: Any, metric: str, launcher: Any) -> None:
        for row in rows:
            job.run_row(study, row, metric)

    monkeypatch.setattr(job, "train", runs)
    monkeypatch.setattr(studying, "launch", launch)
    monkeypatch.setattr(studying, "check_arms", lambda plan: {name: EPOCHS.get(name, 2) for name in plan.arms})
    monkeypatch.setattr(report, "_rest", lambda plan: [])
    return runs


def study(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> str:
    """A study in ``folder``, which goes on where it was; what it prints at its end."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    plan_file(folder, **changes)
    return studying.run_study(read_plan(Path("plan.yaml")))


def pages(folder: Path) -> dict[str, str]:
    """What a study's report holds."""
    return {name: (folder / "study" / name).read_text() for name in ("study.md", "study.html", "study.json")}
