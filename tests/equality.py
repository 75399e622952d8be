"""Whole runs in one process and in several, and how far their figures are apart."""

import csv
import warnings
from pathlib import Path

import pytest
from runs import tiny_run

ROUNDING = 2.5e-7  # torchmetrics' means and accuracies are float32 whatever the precision of the run
NOT_COMPARED = (
    "train/seconds",
    "train/data_wait",
    "agr/",
)  # a gradient that is zero but for rounding has any coefficient


def in_process(folder: Path, overrides: list[str]) -> None:
    """A run in one of the pool's processes."""
    warnings.simplefilter("ignore")
    tiny_run(folder, *overrides)


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal_rows(one: Path, many: Path, rounding: float = 1e-12) -> None:
    """Every figure of every row: what the task computes to ``rounding``, torchmetrics' to float32."""
    first, second = rows(one), rows(many)
    assert len(first) == len(second) > 1
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if a[name] and not name.startswith(NOT_COMPARED):
                ours = not rounding or name.startswith("step/") or name in ("train/loss", "train/penalty")
                expected = pytest.approx(float(a[name]), rel=rounding if ours else max(rounding, ROUNDING), abs=1e-14)
                assert float(b[name]) == expected, (name, a["step"])
