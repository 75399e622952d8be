"""What a plan says, once it has been read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Values = tuple[tuple[str, Any], ...]  # of keys, in the order of the search space


@dataclass(frozen=True)
class Arm:
    """What is compared: overrides, and the values that are tried for some further keys."""

    overrides: tuple[str, ...]
    search: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Rung:
    """A round of successive halving: how long, on which seeds, and how many configurations stay."""

    length: float  # of the arm's own epochs
    seeds: tuple[int, ...]
    keep: int


@dataclass(frozen=True)
class Tuning:
    """How each arm's configuration is chosen."""

    metric: str
    configurations: int  # of each arm
    rungs: tuple[Rung, ...]
    further: int  # of each arm, beyond or beside its winner


@dataclass(frozen=True)
class Look:
    """When the registered comparison is looked at: after so many seeds, at which level."""

    seeds: int
    alpha: float


@dataclass(frozen=True)
class Comparison:
    """What was registered to be compared."""

    metric: str
    candidates: tuple[str, ...]
    comparators: tuple[str, ...]
    difference: float | None  # the smallest that is worth finding
    power: float


@dataclass(frozen=True)
class Plan:
    """A study before anything of it has run.

    Args:
        file: where it was read.
        folder: where everything goes.
        setting: overrides of every run.
        arms: by their names.
        tuning: None: the arms' overrides are all.
        comparison: what is asked.
        seeds: of the runs that answer it.
        looks: the last one after all seeds.
        seed: of the plan's own draws.
        launcher: Hydra's settings of what starts the runs; no part of what is registered.
        registered: all else, as plain data.
    """

    file: Path
    folder: Path
    setting: tuple[str, ...]
    arms: Mapping[str, Arm]
    tuning: Tuning | None
    comparison: Comparison
    seeds: tuple[int, ...]
    looks: tuple[Look, ...]
    seed: int
    launcher: tuple[str, ...]
    registered: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """The sha256 of what is registered: comments, order of keys, folder and launcher aside."""
        return digest(self.registered)


def digest(content: Any) -> str:
    """The sha256 of plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def draw(items: list[Any], *coordinates: object) -> list[Any]:
    """The items in a random order that is a pure function of the coordinates."""

    def place(i: int) -> str:
        return digest([*map(str, coordinates), i])

    return [items[i] for i in sorted(range(len(items)), key=place)]
