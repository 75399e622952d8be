"""Figures that are compared come from one machine."""

import os
import platform
from pathlib import Path

from gvr_lightning.files import atomic

MACHINE = "machine.txt"  # in a row's folder: where its runs are


def begin_on_one_machine(place: Path) -> None:
    """A row of runs that was begun on another machine begins anew; what was there is put aside."""
    path, here = place / MACHINE, machine()
    before = path.read_text(encoding="utf-8").strip() if path.exists() else here
    if before != here:
        aside = place / f".before_{1 + sum(1 for _ in place.glob('.before_*'))}"
        aside.mkdir()
        for run in [child for child in place.iterdir() if child.is_dir() and child.name[0] != "."]:
            run.rename(aside / run.name)
        print(f"{place}: begun on another machine ({before}); it begins anew, what was there is in {aside}", flush=True)
    if before != here or not path.exists():
        atomic(path, lambda temporary: temporary.write_text(f"{here}\n", encoding="utf-8"))


def machine() -> str:
    """What the figures of a run may depend on beside its configuration."""
    model = _found("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    cards = sorted(_found(str(path), "Model") for path in Path("/proc/driver/nvidia/gpus").glob("*/information"))
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return ", ".join([model, f"{os.cpu_count()} CPUs", f"OMP_NUM_THREADS={threads}", *cards])


def _found(file: str, name: str) -> str:
    """The value of the first line ``name: value`` of a file, "" for none."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    values = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name]
    return values[0] if values else ""
