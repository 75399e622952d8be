"""What an offline W&B run holds: its .wandb file is a log of LevelDB's format, each entry a protobuf record."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

HEADER, BLOCK, ENTRY = 7, 32768, 7  # bytes: of the file, between its restarts, of an entry's own header
FULL, LAST = 1, 4  # kinds of entries that end a record


def offline_runs(folder: Path) -> list[dict[str, Any]]:
    """The W&B runs that a job's folder holds, oldest first."""
    return [read_run(path) for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def read_run(path: Path) -> dict[str, Any]:
    """The last word of a .wandb file on everything, and all rows of its history."""
    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "axes": {}, "exit": None, "files": []}
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            found["config"] |= _values(record.run.config.update)
        elif kind == "history":
            found["history"].append(_values(record.history.item))
        elif kind == "summary":
            found["summary"] |= _values(record.summary.update)
        elif kind == "metric":
            found["axes"][record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "files":
            found["files"] += [file.path for file in record.files.files]
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def _values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[pb.Record]:
    assert data[:4] == b":W&B"
    at, parts = HEADER, b""
    while at + ENTRY <= len(data):
        left = BLOCK - at % BLOCK
        if left < ENTRY:  # an entry's header is never cut in two
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + ENTRY : at + ENTRY + length]
        at += ENTRY + length
        if kind in (FULL, LAST):
            yield pb.Record.FromString(parts)
            parts = b""
