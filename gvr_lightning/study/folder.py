"""A study's own folder: what was registered before anything ran, and one ``gvr-study`` at a time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvr_lightning.config.identity import leaves
from gvr_lightning.config.wording import show
from gvr_lightning.errors import UserError
from gvr_lightning.files import atomic, locked, read_json
from gvr_lightning.git import git_state
from gvr_lightning.report.runs import CUT
from gvr_lightning.study.plan import Plan, digest
from gvr_lightning.study.trials import CONFIRMATION, TUNING

REGISTERED = "study.json"


@dataclass(frozen=True)
class Registered:
    """What was written before anything ran."""

    sha256: str  # of the plan
    commit: str  # of the code, with a word where it was changed since
    epochs: Mapping[str, int]  # of each arm

    @staticmethod
    def now(plan: Plan, epochs: Mapping[str, int]) -> "Registered":
        """What would be registered at this moment."""
        return _registered(_content(plan, epochs))


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """The folder for this study alone.

    Raises:
        UserError: if another one is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder, wait=False):
            yield
    except BlockingIOError as error:
        raise UserError(f"{folder}: another gvr-study is at work in it; --status says how far it is") from error


def is_taken(folder: Path) -> bool:
    """Whether a study is at work in it."""
    try:
        with locked(folder, wait=False):
            return False
    except BlockingIOError:
        return True


def register(plan: Plan, epochs: Mapping[str, int]) -> Registered:
    """Write what is registered, before anything runs.

    Raises:
        UserError: for a folder with runs of which nothing says what they are.
    """
    left = [name for name in (TUNING, CONFIRMATION) if (plan.folder / name).exists()]
    if left:
        raise UserError(f"{plan.folder} has runs ({left[0]}/) and no {REGISTERED}: give the study a folder of its own")
    content = _content(plan, epochs)
    text = json.dumps(content, indent=1) + "\n"
    atomic(plan.folder / REGISTERED, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return _registered(content)


def registered(plan: Plan) -> Registered | None:
    """What the folder's study was registered as; None for a new one.

    Raises:
        UserError: for another plan, or a damaged file.
    """
    path = plan.folder / REGISTERED
    if not path.exists():
        return None
    try:
        content = read_json(path)
        found = _registered(content)
        if digest(content["plan"]) != found.sha256:
            raise ValueError("its plan is not the one that was registered")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}): restore it, or give the study a folder of its own") from error
    if found.sha256 != plan.digest:
        raise UserError(f"{plan.file} is not the plan that {plan.folder} was begun with: {_changed(content, plan)};"
                        " a changed plan is another study, in a folder of its own")  # fmt: skip
    return found


def _content(plan: Plan, epochs: Mapping[str, int]) -> dict[str, Any]:
    return {"sha256": plan.digest, "plan": plan.registered, "git": git_state(), "epochs": dict(epochs)}


def _registered(content: Any) -> Registered:
    state = content["git"]
    commit = f"{(state['commit'] or 'unknown')[:CUT]}{' with changes' if state['dirty'] else ''}"
    return Registered(str(content["sha256"]), commit, {str(k): int(v) for k, v in content["epochs"].items()})


def _changed(content: Any, plan: Plan) -> str:
    """The first key that differs."""
    before, now = leaves(content["plan"]), leaves(dict(plan.registered))
    key = next(key for key in [*before, *now] if before.get(key) != now.get(key))
    return f"{key} was {show(before.get(key))} and is {show(now.get(key))}"
