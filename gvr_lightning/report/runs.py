"""Every run below some folders: what it left, or why it cannot be used, and what of its configuration defines it."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from gvr_lightning.config.identity import BOOKKEEPING, PLACES, TAKERS, config_hash, leaves, matches
from gvr_lightning.config.moved import current
from gvr_lightning.errors import UserError
from gvr_lightning.files import read_json, read_text, read_yaml
from gvr_lightning.report.protocols import protocol, unlike

FINISHED, UNFINISHED, NOT_READ = "finished", "unfinished", "not read"
STATUSES = (FINISHED, "interrupted", "failed")  # that summary.json may tell
OURS = ("seed", "regularizer")  # keys that every configuration of this project has
INSIDE = ("checkpoints", "samples", "tensorboard", "wandb")  # folders of a run in which there is no other

RECORDS = ("versions", "git", "machine", "protocol", "label_noise", "data_size")  # of summary.json, where they are
LARGEST = 1e100  # the squares of larger figures are no numbers

FlatConfig = dict[str, Any]  # a configuration's values by the dotted paths of their keys

CUT = 12  # characters of a hash that are shown


class UnreadableError(Exception):
    """A file that is not what a run of this project leaves; the reason in one line."""


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
            node = _load(self.path / ".hydra" / "hydra.yaml", read_yaml)["hydra"]["runtime"]["choices"]
            return {group: str(option or "none") for group, option in node.items() if "/" not in group}
        except (KeyError, TypeError, AttributeError, UnreadableError):
            return {}

    @cached_property
    def overrides(self) -> list[str] | None:
        """What stood on the command line; None if that is not recorded."""
        try:
            found = _load(self.path / ".hydra" / "overrides.yaml", read_yaml)
        except UnreadableError:
            return None
        return [str(text) for text in found] if isinstance(found, list) else None

    @property
    def command_line(self) -> dict[str, str]:
        """The keys that stood there, as typed, with their values."""
        pairs = (text.partition("=") for text in self.overrides or [])
        return {key: value for key, _, value in pairs}


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Every run below the folders, each once, in the order of their paths.

    Raises:
        UserError: if there is none.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        for path in _run_folders(folder):
            found.setdefault(path.resolve(), read_run(path, _name(path, folder, len(folders) > 1)))
    if not found:
        raise UserError(
            f"{', '.join(map(str, folders))}: no run in it (no summary.json, config.yaml or .hydra/ at any depth)"
        )
    return list(found.values())


def read_run(path: Path, name: str) -> Run:
    """What a folder holds; a run that cannot be used says why."""
    try:
        summary = _read_summary(path)
        if summary is None:
            _read_config(path)
            return Run(path, name, UNFINISHED, "no summary.json: it is running, or was killed")
        if summary["status"] != FINISHED:
            return Run(path, name, summary["status"], str(summary.get("error", "stopped by a signal")), summary)
        config, rows = _read_config(path), _read_rows(path)
        written, now = (path / "summary.json").stat().st_mtime, config_hash(config)
        run = Run(path, name, FINISHED, "", summary, current(config), rows, written)
        for value in leaves(run.config).values():
            frozen(value)
    except UnreadableError as error:
        return Run(path, name, NOT_READ, str(error))
    except Exception as error:  # whatever a stranger's file has made of it: one odd run stops no report
        return Run(path, name, NOT_READ, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if summary.get("config_hash", now) != now:
        run.status = UNFINISHED
        run.reason = "config.yaml is newer than summary.json: continued, and running or killed (or edited by hand)"
    return run


def defining(runs: Sequence[Run]) -> list[FlatConfig]:
    """What defines each run, its seed left out: equal for repetitions, which are scored by one protocol."""
    flats = [leaves(run.config) for run in runs]
    data = {
        (flat.get("data.source._target_"), run.summary.get("data_hash")) for run, flat in zip(runs, flats, strict=True)
    }
    same_data = len(data) == len({source for source, _ in data})
    if not same_data:  # one source has given several data sets
        for flat, run in zip(flats, runs, strict=True):
            flat["data.hash"] = str(run.summary.get("data_hash"))[:CUT]
    patterns = (*BOOKKEEPING, *TAKERS, *(PLACES if same_data else ()))
    names = dict.fromkeys(name for flat in flats for name in flat)
    dropped = {name for name in names if matches(name, patterns)}
    dropped |= {name for name in names if name.endswith(".seed") and _is_the_seed(name, flats)}
    kept = [{name: value for name, value in flat.items() if name not in dropped} for flat in flats]
    protocols = [protocol(run.summary) for run in runs]
    apart = unlike([frozen(flat) for flat in kept], protocols)
    return [flat | {name: one.get(name) for name in apart} for flat, one in zip(kept, protocols, strict=True)]


def differing(flats: Sequence[FlatConfig]) -> list[str]:
    """The names whose values are not all equal; one that is absent equals null."""
    names = dict.fromkeys(name for flat in flats for name in flat)
    return [name for name in names if len({frozen(flat.get(name)) for flat in flats}) > 1]


def frozen(value: Any) -> str:
    """A value that can be compared and hashed: 1 and 1.0 are one."""
    whole = isinstance(value, float) and value.is_integer()
    return json.dumps(int(value) if whole else value, sort_keys=True, default=str)


def _run_folders(folder: Path) -> Iterator[Path]:
    for here, below, files in os.walk(folder):
        is_run = bool({"summary.json", "config.yaml"} & set(files)) or ".hydra" in below
        below[:] = sorted(name for name in below if name[0] != "." and not (is_run and name in INSIDE))
        if is_run:
            yield Path(here)


def _name(path: Path, folder: Path, several: bool) -> str:
    inside = path.relative_to(folder).as_posix()
    return f"{folder.name}/{inside}".removesuffix("/.") if several or inside == "." else inside


def _read_summary(folder: Path) -> dict[str, Any] | None:
    """What summary.json tells; None if there is none."""
    path = folder / "summary.json"
    if not path.exists():
        return None
    found = _load(path, read_json)
    if not isinstance(found, dict) or found.get("status") not in STATUSES:
        raise UnreadableError("summary.json is none of this project: it has no status")
    if found["status"] == FINISHED:
        kinds = {"metrics": dict, "train": dict, "seed": int, "task": str}
        if wrong := [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]:
            raise UnreadableError(f"summary.json is none of this project: it has no {wrong[0]}")
        wrong = [key for key in RECORDS if not isinstance(found.get(key) or {}, dict)]
        wrong += ["classes"] if not isinstance(found.get("classes") or [], list) else []
        wrong += [f"train/{key}" for key, value in found["train"].items() if not _is_figure(value)]
        wrong += [f"metrics/{key}" for key, value in found["metrics"].items() if not _is_figure(value, str)]
        if wrong or abs(found["seed"]) >= 2**63:
            raise UnreadableError(f"summary.json is none of this project: {(wrong or ['seed'])[0]} is something else")
    return found


def _is_figure(value: Any, *others: type) -> bool:
    """Whether a value is a number that a mean can be taken of, or nothing; or of another kind."""
    if isinstance(value, int | float):
        return value != value or abs(value) < LARGEST or value in (math.inf, -math.inf)
    return value is None or isinstance(value, others)


def _read_config(folder: Path) -> dict[str, Any]:
    """The configuration, resolved if the run came that far."""
    resolved = folder / "config.yaml"
    found = _load(resolved if resolved.exists() else folder / ".hydra" / "config.yaml", read_yaml)
    if not isinstance(found, dict) or any(key not in found for key in OURS):
        raise UnreadableError(f"config.yaml is none of this project: it has no {' and '.join(OURS)}")
    return found


def _read_rows(folder: Path) -> list[dict[str, float]]:
    """The figures in metrics.csv, empty cells left out; none where there is no such file."""
    path = folder / "metrics.csv"
    return _load(path, _numbers) if path.exists() else []


def _numbers(path: Path) -> list[dict[str, float]]:
    rows = csv.DictReader(StringIO(read_text(path), newline=""), strict=True)
    return [{name: _number(value) for name, value in row.items() if value not in ("", None)} for row in rows]


def _number(text: str) -> float:
    value = float(text)
    return value if _is_figure(value) else math.copysign(math.inf, value)


def _load(path: Path, parse: Callable[[Path], Any]) -> Any:
    """What a file of a run holds.

    Raises:
        UnreadableError: if it is missing or damaged.
    """
    try:
        return parse(path)
    except FileNotFoundError as error:
        raise UnreadableError(f"{path.name} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, MemoryError, csv.Error) as error:
        raise UnreadableError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error


def _is_the_seed(name: str, flats: Sequence[FlatConfig]) -> bool:
    """Whether a seed of a part's own follows that of the run everywhere."""
    return all(flat[name] == flat.get("seed") for flat in flats if name in flat)
