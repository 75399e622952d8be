"""Damage each file of a run's folder in six ways, and continue the run: bit for bit, or an end with one line.

    python experiments/robustness/damaged_folders.py        # 108 folders, some minutes

A run of two epochs is continued to three, by ``resume=<folder>`` and by ``resume=auto``. What goes on has to end with
the weights and the rows of metrics.csv of the undamaged one; what does not has to say so in one line, and must not
have touched the checkpoints.
"""

import csv
import io
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from gvr_lightning.app.train import main as train

FILES = ["config.yaml", ".hydra/overrides.yaml", ".hydra/started.json", "metrics.csv", "summary.json", "curves.png"]
FILES += ["checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt"]
DAMAGES = ("emptied", "cut", "garbage", "removed", "a folder", "a bit")
RUN = ["regularizer=gvr", "scheduler=constant", "test_on=best", "trainer=cpu", "batch_size=32", "data.max_train=80"]
RUN += ["model.width=8", "model.groups=4", "data.val_fraction=0.05"]
TIMES = ("train/seconds",)


def command(*arguments: str) -> tuple[int, str]:
    """The command line in this process: its exit status, and what it wrote on standard error."""
    sys.argv = ["train.py", *arguments]
    text, ours = io.StringIO(), sys.stdout
    try:
        with redirect_stderr(text), redirect_stdout(io.StringIO()):
            train()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout = ours
    return status, text.getvalue()


def damage(path: Path, how: str) -> None:
    """Damage a file."""
    content = path.read_bytes()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how != "removed":
        bit = bytearray(content)
        bit[len(bit) // 2] ^= 4
        path.write_bytes(
            {"emptied": b"", "cut": content[: len(content) // 2], "garbage": b"{[: - \t!!python/object:x"}.get(how, bit)
        )


def left(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The weights, and the rows of metrics.csv without their times."""
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return weights, [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def same(a: tuple[dict[str, Any], Any], b: tuple[dict[str, Any], Any]) -> bool:
    """Whether two runs ended alike, in every bit."""
    return a[0].keys() == b[0].keys() and all(torch.equal(v, b[0][k]) for k, v in a[0].items()) and a[1] == b[1]


def outcome(run: Path, kept: Path, good: Any, file: str, how: str, way: str) -> str:
    """How a damaged run ends."""
    shutil.rmtree(run)
    shutil.copytree(kept, run)
    damage(run / file, how)
    arguments = [f"resume={run}"] if way == "resume" else [*RUN, "resume=auto", f"hydra.run.dir={run}"]
    status, said = command(*arguments, "epochs=3")
    if "Traceback" in said:
        return f"WRONG: a traceback: {said[-500:]}"
    if status == 0:
        return "went on, bit for bit" if same(left(run), good) else "WRONG: went on otherwise"
    untouched = all(
        (run / f).read_bytes() == (kept / f).read_bytes() for f in FILES if f.endswith("ckpt") and f != file
    )
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    return "a line" if status in (1, 2) and len(lines) == 1 and untouched else f"WRONG: status {status}: {said[-500:]}"


def main() -> None:
    """Damage, continue, compare, tell."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        run, whole, kept = (Path(scratch) / name for name in ("run", "whole", "kept"))
        for folder, epochs in ((run, 2), (whole, 2)):
            if command(*RUN, f"epochs={epochs}", f"hydra.run.dir={folder}")[0]:
                sys.exit("the undamaged run failed")
        shutil.copytree(run, kept)
        if command(f"resume={whole}", "epochs=3")[0]:
            sys.exit("the undamaged run cannot be continued")
        good, counts = left(whole), Counter[str]()
        for way in ("resume", "auto"):
            for file in FILES:
                for how in DAMAGES:
                    ended = outcome(run, kept, good, file, how, way)
                    counts[f"{way}: {ended.partition(': ')[0]}"] += 1
                    print(f"{way:8}{file:26}{how:10}{ended}", flush=True)
        print(", ".join(f"{n} x {ended}" for ended, n in sorted(counts.items())))
        sys.exit(any("WRONG" in ended for ended in counts))


if __name__ == "__main__":
    main()
