"""The files that a run leaves, read with care: anything else in their place is said in one line."""

import csv
import json
from pathlib import Path
from typing import Any

import yaml

FINISHED = "finished"
STATUSES = (FINISHED, "interrupted", "failed")  # that summary.json may tell
OURS = ("seed", "regularizer")  # keys that every configuration of this project has
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


class UnreadableError(Exception):
    """A file that is not what a run of this project leaves; the reason in one line."""


def read_summary(path: Path) -> dict[str, Any] | None:
    """summary.json; None if there is none.

    Raises:
        UnreadableError: if it is not what a run writes.
    """
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UnreadableError(f"summary.json cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("status") not in STATUSES:
        raise UnreadableError("summary.json is none of this project: it has no status")
    if found["status"] == FINISHED:
        kinds = {"metrics": dict, "train": dict, "seed": int, "task": str}
        if wrong := [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]:
            raise UnreadableError(f"summary.json is none of this project: it has no {wrong[0]}")
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a folder, resolved if it came that far.

    Raises:
        UnreadableError: if there is none, or it is none of this project.
    """
    resolved = path / "config.yaml"
    found = read_yaml(resolved if resolved.exists() else path / ".hydra" / "config.yaml")
    if not isinstance(found, dict) or any(key not in found for key in OURS):
        raise UnreadableError(f"config.yaml is none of this project: it has no {' and '.join(OURS)}")
    return found


def read_yaml(path: Path) -> Any:
    """Plain data.

    Raises:
        UnreadableError: if the file is missing or no YAML.
    """
    try:
        return yaml.load(path.read_text(), LOADER)
    except FileNotFoundError as error:
        raise UnreadableError(f"{path.name} is missing") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UnreadableError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error


def read_rows(path: Path) -> list[dict[str, float]]:
    """The figures in metrics.csv, empty cells left out; none where there is no such file.

    Raises:
        UnreadableError: if it is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        return [{name: float(value) for name, value in row.items() if value not in ("", None)} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UnreadableError(f"metrics.csv cannot be read: {error}") from error
