"""The figures as CSV, in full precision and in the units of summary.json: accuracies are fractions."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gvr_lightning.report.groups import Comparison
from gvr_lightning.report.rows import COSTS, Row, cost_of
from gvr_lightning.report.runs import Run, flatten
from gvr_lightning.report.tables import status_of

Record = dict[str, Any]


def write_sheet(path: Path, records: Sequence[Record]) -> None:
    """One line a record; a column for every name in any of them."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)


def group_record(comparison: Comparison, setting: str, row: Row) -> Record:
    """A line of table.csv."""
    result, difference, baseline = row.result, row.difference, row.baseline
    record: Record = {"task": comparison.task, "setting": setting, "configuration": row.group.label}
    record |= {"metric": comparison.metric.name, "n": result.n, "mean": result.mean, "sd": result.sd}
    record |= {"low": result.low, "high": result.high, "baseline": baseline.label if baseline else None}
    record |= {"pairs": len(difference.seeds) if difference else None}
    for name in ("mean", "low", "high", "p"):
        record[f"difference_{name}" if name != "p" else name] = getattr(difference, name) if difference else None
    record |= {name: row.cost[name] for name in COSTS}
    return record | {f"{name}_relative": row.relative[name] for name in COSTS}


def run_records(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[Record]:
    """The lines of runs.csv: every folder that was found."""
    places = {
        id(run): (comparison, setting.label, group.label)
        for comparison in comparisons
        for setting in comparison.settings
        for group in setting.groups
        for run in group.runs.values()
    }
    keys = dict.fromkeys(key for c in comparisons for key in (*c.setting_keys, *c.method_keys))
    return [_run_record(run, places.get(id(run)), list(keys)) for run in runs]


def _run_record(run: Run, place: tuple[Comparison, str, str] | None, keys: Sequence[str]) -> Record:
    flat, finished = flatten(run.config), run.status == "finished"
    record: Record = {"folder": run.name, "status": status_of(run), "averaged": place is not None, "reason": run.reason}
    record |= {"task": run.summary.get("task"), "setting": place[1] if place else None}
    record |= {"configuration": place[2] if place else None, "seed": run.summary.get("seed")}
    record |= {key: flat.get(key) for key in keys}
    record |= {name: cost_of(run, name) if finished else None for name in COSTS}
    return record | run.metrics
