"""A row of a study's runs, as a Hydra launcher's job: one after the other, each in a process of its own.

A run that takes its process with it, for want of memory or by a fault of a library, stops no other. The processes are
forked from one that has loaded torch once, where the system can.
"""

import multiprocessing as mp
import os
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from gvr_lightning.errors import Interrupted
from gvr_lightning.files import locked, read_json
from gvr_lightning.study.machine import begin_on_one_machine
from gvr_lightning.study.outcomes import note_crash, outcome
from gvr_lightning.study.trials import CONFIRMATION, Trial

OUTPUT = "output.txt"  # in a run's folder: what it printed
PRELOAD = ["gvr_lightning.app.run"]  # torch and Lightning, seconds
PATIENCE = 60.0  # seconds that a run may take to save, once it is interrupted
STOPPED = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}


def row(cfg: Any) -> None:
    """What the launcher calls: row number ``cfg.row`` of the file ``cfg.jobs``."""
    content = read_json(Path(cfg.jobs))
    trials = [_trial(fields) for fields in content["rows"][cfg.row]]
    run_row(Path(cfg.jobs).parents[1], trials, content["metric"])


def _trial(fields: dict[str, Any]) -> Trial:
    values = tuple((key, value) for key, value in fields["values"])
    return Trial(**{**fields, "values": values, "overrides": tuple(fields["overrides"])})


def run_row(study: Path, trials: Sequence[Trial], metric: str) -> None:
    """Run what of a row is open; of a study that was killed, a row that is still at work is waited for."""
    place = study / Path(trials[0].place).parent
    place.mkdir(parents=True, exist_ok=True)
    with locked(place):
        if place.parent.name == CONFIRMATION:
            begin_on_one_machine(place)
        for trial in trials:
            if outcome(study, trial, metric).is_open and not _run(study, trial, metric):
                return


def _run(study: Path, trial: Trial, metric: str) -> bool:
    """Whether the row may go on."""
    folder = study / trial.place
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    with locked(folder / ".hydra"):  # by a process that outlived its study
        pass
    status = train([*trial.overrides, f"hydra.run.dir={_quoted(folder)}"], folder / OUTPUT)
    found = outcome(study, trial, metric)
    if found.is_finished:
        value = found.value(metric)
        print(f"{trial.words}: {metric} {value:.4g} ({found.run.summary['train']['seconds']:.1f} s)", flush=True)  # type: ignore[union-attr]
    elif found.failed:
        print(f"{trial.words}: {found.failed}", flush=True)
    elif status in STOPPED:
        return False
    else:
        error = _last_line(folder / OUTPUT) or f"its process ended with status {status}"
        note_crash(folder, error)
        print(f"{trial.words}: crashed: {error}", flush=True)
    return True


def train(arguments: list[str], output: Path) -> int:
    """``gvr-train`` in a process of its own; its exit status, negative for a signal."""
    methods = mp.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    if mp.get_start_method(allow_none=True) not in (None, *methods):
        mp.set_start_method(method, force=True)  # joblib's workers say "loky", which the new process does not know
    context: Any = mp.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_train, args=(arguments, str(output)))
    process.start()
    try:
        process.join()
    except (KeyboardInterrupt, Interrupted):
        process.join(PATIENCE)  # the signal is the whole group's: it saves, and ends
        process.terminate()
        process.join()
        raise
    return int(process.exitcode or 0)


def _train(arguments: list[str], output: str) -> None:
    """In the new process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(output, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["gvr-train", *arguments]
    runpy.run_module("gvr_lightning", run_name="__main__")


def _end_with_parent() -> None:
    """A run does not outlive its study: it saves, and ends."""
    parent = mp.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _last_line(file: Path) -> str:
    """What was printed last."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    told = [line.strip() for line in lines if line.strip()]
    return told[-1].removeprefix("error: ")[:300] if told else ""


def _quoted(folder: Path) -> str:
    where = str(folder.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{where}'"
