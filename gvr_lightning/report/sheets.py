"""What is found as CSV: a line a configuration, and a line a run, in full precision and the units of summary.json."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gvr_lightning.config.identity import leaves
from gvr_lightning.files import as_text
from gvr_lightning.report.cost import COSTS, cost_of
from gvr_lightning.report.groups import Comparison
from gvr_lightning.report.runs import FINISHED, Run
from gvr_lightning.report.sampling import sampling_error, tested_images
from gvr_lightning.report.tables import ComparedGroup

Record = dict[str, Any]  # a line, by column


def group_record(comparison: Comparison, setting: str, compared: ComparedGroup) -> Record:
    """A line of table.csv."""
    result, difference, baseline = compared.result, compared.difference, compared.baseline
    record: Record = {"task": comparison.task, "setting": setting, "configuration": compared.label}
    record |= {"metric": comparison.metric.name, "n": result.n, "mean": result.mean, "sd": result.sd}
    record |= {"low": result.low, "high": result.high, "baseline": baseline.label if baseline else None}
    record |= {"pairs": len(difference.seeds) if difference else None}
    for name in ("mean", "low", "high", "p"):
        record[f"difference_{name}" if name != "p" else name] = getattr(difference, name) if difference else None
    record |= {name: compared.cost[name] for name in COSTS}
    record |= {f"{name}_relative": compared.relative[name] for name in COSTS}
    number = tested_images(compared.group.runs.values()) if comparison.metric.of_test_images else None
    record |= {"test_images": number, "sampling_error": sampling_error(result.mean, number)}
    return record | _beside_plain(compared)


def run_records(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[Record]:
    """The lines of runs.csv: every folder that was found."""
    labels = {
        id(run): (setting.label, group.label)
        for comparison in comparisons
        for setting in comparison.settings
        for group in setting.groups
        for run in group.runs.values()
    }
    keys = dict.fromkeys(key for c in comparisons for key in (*c.setting_keys, *c.method_keys))
    return [_run_record(run, labels.get(id(run)), list(keys)) for run in runs]


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """One line a record, in full precision and the units of summary.json; a column for every name in any of them."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: as_text(value) for name, value in record.items()} for record in records)


def _beside_plain(compared: ComparedGroup) -> Record:
    """The difference to plain training of equal cost, as far as possible in images."""
    line, found = compared.weighed[0] if compared.weighed else (None, None)
    record: Record = {
        "plain": line.plain.label if line else None,
        "plain_equal": " ".join(line.equal) if line else None,
    }
    record |= {"plain_pairs": len(found.seeds) if found else None}
    names = ("mean", "low", "high", "p")
    return record | {f"plain_difference_{name}": getattr(found, name) if found else None for name in names}


def _run_record(run: Run, labels: tuple[str, str] | None, keys: Sequence[str]) -> Record:
    flat, finished = leaves(run.config), run.status == FINISHED
    setting, configuration = labels or (None, None)
    record: Record = {"folder": run.name, "status": run.status, "averaged": labels is not None, "reason": run.reason}
    record |= {"task": run.summary.get("task"), "setting": setting, "configuration": configuration}
    record |= {"seed": run.summary.get("seed")}
    record |= {key: flat.get(key) for key in keys}
    record |= {name: cost_of(run, name) if finished else None for name in COSTS}
    return record | run.metrics
