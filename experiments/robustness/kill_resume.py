"""Stop runs at random moments, again and again, and compare their end with that of an undisturbed run, bit by bit.

    python experiments/robustness/kill_resume.py --kills 50 --run classification
    python experiments/robustness/kill_resume.py --kills 50 --run generation
    python experiments/robustness/kill_resume.py --kills 40 --processes 2      # the parent, one of them, or all at once
    python experiments/robustness/kill_resume.py --kills 40 --by signal        # Ctrl-C or SIGTERM, once or twice
    python experiments/robustness/kill_resume.py --kills 40 checkpoint.in_background=true checkpoint.every_n_epochs=4

Every start is ``python train.py ... resume=auto hydra.run.dir=<folder>``, as a job queue would do it. Equal must be all
of the last checkpoint (weights, average, optimizer, schedule, counters), and metrics.csv row by row except for the
columns that hold times. A signal has to end the run with its status, without a traceback, and with a true summary.json.
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
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

TRAIN = Path(__file__).parents[2] / "train.py"
COMMON = ["regularizer=gvr_agr", "alpha=1", "checkpoint.every_n_steps=3", "trainer.log_every_n_steps=5"]
RUNS = {
    "classification": [*COMMON, "epochs=20", "scheduler.interval=step", "regularizer.penalty.subset=32"],
    "generation": [*COMMON, "task=ddpm", "epochs=6", "generation.every_n_epochs=2", "generation.num_images=200"],
}
TIMES = ("train/seconds",)  # columns that may differ
TIMED = ("seconds", "images_per_second")  # likewise, in the state of the throughput callback
PATIENCE = 120.0  # seconds in which whatever a killed parent has left has to end


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start the run, or continue it."""
    whole = [sys.executable, str(TRAIN), *command, "resume=auto", f"hydra.run.dir={folder}"]
    return subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def disturbed(
    command: list[str], folder: Path, kills: int, longest: float, by: str, draw: random.Random
) -> list[dict[str, Any]]:
    """Run with kills until it finishes; what was there at each kill. ``longest``: what an undisturbed run takes."""
    seen: list[dict[str, Any]] = []
    while len(seen) < kills:
        process = start(command, folder)
        try:
            process.wait(draw.uniform(0.0 if by == "signal" else 0.15, 0.6) * longest)
        except subprocess.TimeoutExpired:
            how = signalled(process, folder, draw) if by == "signal" else killed(process, draw)
            seen.append({"how": how, "step": last_step(folder), "temporaries": len(list(folder.rglob(".*.tmp")))})
            print(f"{len(seen)}: {how}, {seen[-1]['step']} updates saved", file=sys.stderr)
        else:  # it has finished: from the start again, if there are kills left
            check(process.returncode == 0, f"a start ended with status {process.returncode}: {said(process)}")
            if len(seen) < kills:
                put_aside(folder)
    process = start(command, folder)
    check(process.wait() == 0, f"the last start ended with status {process.returncode}: {said(process)}")
    return seen


def killed(process: subprocess.Popen[str], draw: random.Random) -> str:
    """Kill it, or where it is of several processes perhaps one of them; and wait until none is left."""
    workers = children(process.pid)
    whom = draw.choice(["the parent", "one", "all"]) if workers else "all"
    victims = {"the parent": [process.pid], "one": [draw.choice(workers or [0])], "all": [process.pid, *workers]}[whom]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    status = process.wait()
    check(status == (1 if whom == "one" else -9), f"{whom} killed: status {status}: {said(process)}")
    end = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        check(time.monotonic() < end, f"{whom} killed: others are still there after {PATIENCE:g} s")
        time.sleep(0.1)
    return f"killed {whom}"


def signalled(process: subprocess.Popen[str], folder: Path, draw: random.Random) -> str:
    """Send one signal or two, and look how it ends."""
    first = draw.choice([signal.SIGINT, signal.SIGTERM])
    others = draw.choice([[], [], [first], [signal.SIGTERM]])
    process.send_signal(first)
    for other in others:
        time.sleep(draw.choice([0.0, 0.01, 0.3]))
        process.send_signal(other)
    how = " then ".join(s.name for s in (first, *others))
    text, status = process.communicate()[1], process.returncode
    ends = {0, *(128 + s for s in (first, *others)), *(-s for s in (first, *others))}  # a shell calls -15 143
    check(status in ends, f"{how}: status {status}: {text}")
    check("Traceback" not in text, f"{how}: {text}")
    with suppress(FileNotFoundError):  # the signal came before the run was begun
        told = json.loads((folder / "summary.json").read_text())["status"]
        check(status < 0 or told == ("finished" if status == 0 else "interrupted"), f"{how}: {status}, but {told}")
    return f"{how}: status {status}"


def children(pid: int) -> list[int]:
    """The worker processes that a run has started: of a process of its own, from which they are forked."""
    return [n for server in below(pid) if "forkserver" in told(server, "cmdline") for n in below(server)]


def below(pid: int) -> list[int]:
    """The processes that it is the parent of."""
    return [int(n) for n in told(pid, f"task/{pid}/children").split()]


def told(pid: int, what: str) -> str:
    """What the system says of a process; of one that has gone, nothing."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_text()
    return ""


def said(process: subprocess.Popen[str]) -> str:
    """The end of what it has written on standard error."""
    return process.stderr.read()[-2000:] if process.stderr is not None and not process.stderr.closed else ""


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
        state.pop("metrics")  # metrics.csv as it was, which is compared below
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
    parser.add_argument("overrides", nargs="*", help="further ones of every start")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--run", choices=RUNS, default="classification")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--by", choices=("kill", "signal"), default="kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = ["trainer=cpu", f"trainer.devices={arguments.processes}", *RUNS[arguments.run], *arguments.overrides]
    with tempfile.TemporaryDirectory() as scratch:
        reference, folder = Path(scratch) / "undisturbed", Path(scratch) / "killed"
        began = time.monotonic()
        process = start(command, reference)
        check(process.wait() == 0, f"the undisturbed run failed: {said(process)}")
        longest, draw = time.monotonic() - began, random.Random(arguments.seed)
        seen = disturbed(command, folder, arguments.kills, longest, arguments.by, draw)
        finished = [folder, *Path(scratch).glob("killed-finished-*")]
        found = [d for f in finished for d in compare(reference, f)]
        print(f"{arguments.run}: an undisturbed run of {longest:.0f} s and {last_step(reference)} updates")
        print(f"{len(seen)} times over {len(finished)} runs; steps saved then: {[entry['step'] for entry in seen]}")
        print(", ".join(f"{n} x {how}" for how, n in Counter(entry["how"] for entry in seen).most_common()))
        print(f"those that hit a file being written: {sum(entry['temporaries'] > 0 for entry in seen)}")
        print("every run ended as the undisturbed one, bit for bit" if not found else f"DIFFERENT: {found[:20]}")
        sys.exit(bool(found))


if __name__ == "__main__":
    main()
