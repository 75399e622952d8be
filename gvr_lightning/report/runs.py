"""Every folder that a run has left below some others: what it holds, or why it cannot be used."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gvr_lightning.config.lookup import config_hash
from gvr_lightning.config.moved import current
from gvr_lightning.errors import UserError
from gvr_lightning.report.files import FINISHED, UnreadableError, read_config, read_rows, read_summary, read_yaml

UNFINISHED, NOT_READ = "unfinished", "not read"
INSIDE = ("checkpoints", "samples", "tensorboard", "wandb")  # folders of a run in which there is no other


@dataclass
class Run:
    """A folder, and what is known of its run."""

    path: Path
    name: str  # the folder as the reader knows it
    status: str
    reason: str = ""  # why it is not averaged
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)  # of metrics.csv
    written: float = 0.0  # when summary.json was

    @property
    def seed(self) -> int:
        """Of a finished run."""
        return int(self.summary["seed"])

    @property
    def task(self) -> str:
        """Of a finished run."""
        return str(self.summary["task"])

    @property
    def metrics(self) -> dict[str, float]:
        """The final figures that are numbers."""
        found = self.summary.get("metrics") or {}
        return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}

    @cached_property
    def choices(self) -> dict[str, str]:
        """Which option of each config group was chosen, none where it was null; empty if that is not recorded."""
        try:
            node = read_yaml(self.path / ".hydra" / "hydra.yaml")["hydra"]["runtime"]["choices"]
            return {group: str(option or "none") for group, option in node.items() if "/" not in group}
        except (KeyError, TypeError, AttributeError, UnreadableError):
            return {}

    @cached_property
    def overrides(self) -> list[str] | None:
        """What stood on the command line; None if that is not recorded."""
        try:
            found = read_yaml(self.path / ".hydra" / "overrides.yaml")
        except UnreadableError:
            return None
        return [str(text) for text in found] if isinstance(found, list) else None


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Every run below the folders, each once, in the order of their paths.

    Raises:
        UserError: if there is none.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        for path in _candidates(folder):
            found.setdefault(path.resolve(), read_run(path, _name(path, folder, len(folders) > 1)))
    if not found:
        raise UserError(
            f"{', '.join(map(str, folders))}: no run in it (no summary.json, config.yaml or .hydra/ at any depth)"
        )
    return list(found.values())


def read_run(path: Path, name: str) -> Run:
    """What a folder holds; a run that cannot be used says why."""
    try:
        summary = read_summary(path / "summary.json")
        if summary is None:
            read_config(path)
            return Run(path, name, UNFINISHED, "no summary.json: it is running, or was killed")
        if summary["status"] != FINISHED:
            return Run(path, name, summary["status"], str(summary.get("error", "stopped by a signal")), summary)
        config, rows = read_config(path), read_rows(path / "metrics.csv")
    except UnreadableError as error:
        return Run(path, name, NOT_READ, str(error))
    run = Run(path, name, FINISHED, "", summary, current(config), rows, (path / "summary.json").stat().st_mtime)
    if summary.get("config_hash", config_hash(config)) != config_hash(config):
        run.status = UNFINISHED
        run.reason = "config.yaml is newer than summary.json: continued, and running or killed (or edited by hand)"
    return run


def _candidates(folder: Path) -> Iterator[Path]:
    for place, below, files in os.walk(folder):
        is_run = bool({"summary.json", "config.yaml"} & set(files)) or ".hydra" in below
        below[:] = sorted(name for name in below if name[0] != "." and not (is_run and name in INSIDE))
        if is_run:
            yield Path(place)


def _name(path: Path, folder: Path, several: bool) -> str:
    inside = path.relative_to(folder).as_posix()
    return f"{folder.name}/{inside}".removesuffix("/.") if several or inside == "." else inside
