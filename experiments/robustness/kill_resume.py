"""Kill runs (-9) at random moments, again and again, and compare their end with that of an undisturbed run, bit by bit.

    python experiments/robustness/kill_resume.py --kills 50 --run classification
    python experiments/robustness/kill_resume.py --kills 50 --run generation

Every start is ``python train.py ... resume=auto hydra.run.dir=<folder>``, as a job queue would do it. Equal must be all
of the last checkpoint (weights, average, optimizer, schedule, counters), and metrics.csv row by row except for the
columns that hold times.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

TRAIN = Path(__file__).parents[2] / "train.py"
COMMON = ["trainer=cpu", "regularizer=gvr_agr", "alpha=1", "checkpoint.every_n_steps=3", "trainer.log_every_n_steps=5"]
RUNS = {
    "classification": [*COMMON, "epochs=20", "scheduler.interval=step", "regularizer.penalty.subset=32"],
    "generation": [*COMMON, "task=ddpm", "epochs=6", "generation.every_n_epochs=2", "generation.num_images=200"],
}
TIMES = ("train/seconds",)  # columns that may differ
TIMED = ("seconds", "images_per_second")  # likewise, in the state of the throughput callback


def start(run: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the run, or continue it."""
    command = [sys.executable, str(TRAIN), *RUNS[run], "resume=auto", f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def disturbed(run: str, folder: Path, kills: int, longest: float, draw: random.Random) -> list[dict[str, Any]]:
    """Run with kills until it finishes; what was there at each kill. ``longest``: what an undisturbed run takes."""
    seen: list[dict[str, Any]] = []
    while len(seen) < kills:
        process = start(run, folder)
        try:
            process.wait(draw.uniform(0.15, 0.6) * longest)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            seen.append({"step": last_step(folder), "temporaries": len(list(folder.rglob(".*.tmp")))})
        else:  # it has finished: from the start again, if there are kills left
            check(process.returncode == 0, f"a start ended with status {process.returncode}")
            if len(seen) < kills:
                put_aside(folder)
    process = start(run, folder)
    check(process.wait() == 0, f"the last start ended with status {process.returncode}")
    return seen


def put_aside(folder: Path) -> None:
    """Put a finished run aside, so that the next start is a first one."""
    shutil.move(str(folder), f"{folder}-finished-{time.time_ns()}")


def last_step(folder: Path) -> int:
    """The update that the last checkpoint was written after; 0 without one."""
    path = folder / "checkpoints" / "last.ckpt"
    return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested containers differ, in any bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a if key not in TIMED for d in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}.{i}")]
    return [] if type(a) is type(b) and a == b else [path]


def compare(reference: Path, folder: Path) -> list[str]:
    """What differs between two finished runs."""
    found = []
    ours, theirs = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (folder, reference))
    for state in (ours, theirs):  # where it lies, and how long it took, is no part of the result
        state["config"].pop("resume", None)
        state["last_row"] = {k: v for k, v in state["last_row"].items() if k not in TIMES}
    found += differences(ours, theirs, "checkpoint")
    rows = [list(csv.DictReader((f / "metrics.csv").open())) for f in (folder, reference)]
    if len(rows[0]) != len(rows[1]):
        found.append(f"metrics.csv has {len(rows[0])} rows, not {len(rows[1])}")
    for i, (a, b) in enumerate(zip(*rows, strict=False)):
        found += [f"metrics.csv row {i} {k}" for k in a | b if k not in TIMES and a.get(k) != b.get(k)]
    metrics = [json.loads((f / "summary.json").read_text())["metrics"] for f in (folder, reference)]
    found += [
        f"summary.json {k}"
        for k in metrics[0] | metrics[1]
        if k not in TIMES and metrics[0].get(k) != metrics[1].get(k)
    ]
    return found


def check(holds: bool, complaint: str) -> None:
    """Stop with a word."""
    if not holds:
        sys.exit(complaint)


def main() -> None:
    """Run, kill, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--run", choices=RUNS, default="classification")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        reference, folder = Path(scratch) / "undisturbed", Path(scratch) / "killed"
        began = time.monotonic()
        check(start(arguments.run, reference).wait() == 0, "the undisturbed run failed")
        longest = time.monotonic() - began
        seen = disturbed(arguments.run, folder, arguments.kills, longest, random.Random(arguments.seed))
        finished = [folder, *Path(scratch).glob("killed-finished-*")]
        found = [d for f in finished for d in compare(reference, f)]
        steps = [entry["step"] for entry in seen]
        print(f"{arguments.run}: an undisturbed run of {longest:.0f} s and {last_step(reference)} updates")
        print(f"{len(seen)} kills over {len(finished)} runs; steps saved at the kills: {steps}")
        print(f"kills that hit a file being written: {sum(entry['temporaries'] > 0 for entry in seen)}")
        print("every run ended as the undisturbed one, bit for bit" if not found else f"DIFFERENT: {found[:20]}")
        sys.exit(bool(found))


if __name__ == "__main__":
    main()
