"""Sweeps of runs with two processes: each job once in each, one folder, one logger; one that fails stops no other."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from counting import COUNTED
from runs import TINY, TINY_CNN

from gvr_lightning.app import train as cli
from gvr_lightning.config.check import check
from gvr_lightning.config.folder import group_options
from gvr_lightning.config.sweep import Outcome, expand, unfinished
from gvr_lightning.errors import UserError

TRAIN = Path(__file__).parents[1] / "train.py"
ONE = ["epochs=1", *(s for s in TINY if not s.startswith("epochs")), *TINY_CNN]
COUNTING = ["optimizer._target_=counting.counted_sgd"]
OPTUNA = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.direction=maximize"]
LAUNCHERS = {  # optuna's jobs are started by Hydra's own
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "lr=0.1,0.4"],
    "submitit": ["hydra/launcher=submitit_local", "lr=0.1"],
    "optuna": [*OPTUNA, "hydra.sweeper.n_jobs=1", "lr=choice(0.1,0.4)", "hydra.sweeper.sampler.seed=0"],
}


def test_a_ready_sweep_becomes_plain_overrides() -> None:
    assert expand(["seed=1"]) == ["seed=1"]
    assert expand(["-m", "+sweep=quick", "lr=0.1"]) == [
        *("-m", "lr=0.1", "name=quick", "regularizer=none,two_view,gvr,sam,agr", "seed=0,1,2")
    ]
    assert expand(["sweep=seeds", "seed=7,8", "experiment=gvr_cifar10"]) == [
        *("-m", "seed=7,8", "experiment=gvr_cifar10")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+sweep=quik"], r"\+sweep=quik: there is no such sweep; did you mean quick"),
        (["+sweep=quick", "sweep=seeds"], "one sweep at a time"),
        (["+sweep=quick,seeds"], "one sweep at a time"),
    ],
)
def test_a_sweep_that_is_not_there_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        expand(arguments)


@pytest.mark.parametrize("name", group_options()["sweep"])
def test_every_ready_sweep_passes_the_check(name: str) -> None:
    arguments = expand([f"+sweep={name}"])
    assert any("," in a for a in arguments)
    check([a for a in arguments if a != "-m"], multirun=True)


def sweep_here(monkeypatch: pytest.MonkeyPatch, cwd: Path, *arguments: str) -> int:
    """``train.py -m`` in this process; its exit status."""
    monkeypatch.setattr(Outcome, "folder", None)  # of the sweep before
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_ready_sweep_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["+sweep=quick", *(s for s in TINY if not s.startswith("name")), "regularizer=none,gvr", "seed=0"]
    command = [*few, "resume=auto", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert sweep_here(monkeypatch, tmp_path, *command) == 0
    summaries = sorted(tmp_path.rglob("summary.json"))
    before = {path: path.stat().st_mtime_ns for path in summaries}
    lost = summaries[1]
    lost.unlink()  # as if the second job had been killed at its end
    capsys.readouterr()
    assert sweep_here(monkeypatch, tmp_path, *command) == 0
    assert len(summaries) == 2 and summaries[0].stat().st_mtime_ns == before[summaries[0]]
    assert json.loads(lost.read_text())["status"] == "finished"
    printed = capsys.readouterr()
    # the first was not run again, the second went on where it had ended; both say their figures
    assert printed.err.count("data: ") == 1 and "epoch" not in printed.err
    folders = [line for line in printed.out.splitlines() if line.startswith(str(tmp_path))]
    assert folders == [str(path.parent) for path in summaries]


def job(folder: Path, summary: Any) -> Path:
    """A job's folder as it is left; text as it stands, None for no summary."""
    (folder / ".hydra").mkdir(parents=True)
    if summary is not None:
        (folder / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
    return folder


def test_jobs_that_did_not_finish_and_why(tmp_path: Path) -> None:
    job(tmp_path / "0", {"status": "finished", "error": "of a start before"})
    failed = job(tmp_path / "1", {"status": "failed", "error": "not finite"})
    stopped = job(tmp_path / "deeper" / "2", {"status": "interrupted"})
    killed, broken = job(tmp_path / "deeper" / "3", None), job(tmp_path / "deeper" / "4", "{")
    (tmp_path / "no job").mkdir()
    assert unfinished(tmp_path) == [
        *((failed, "failed: not finite"), (stopped, "interrupted")),
        *((killed, "ended without a summary"), (broken, "ended without a summary")),
    ]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_job_runs_once_in_every_process(tmp_path: Path, launcher: str) -> None:
    counted = tmp_path / "counted"
    here = str(Path(__file__).parent)
    environment = os.environ | {COUNTED: str(counted), "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    command = [sys.executable, str(TRAIN), "-m", *ONE, *COUNTING, *LAUNCHERS[launcher], "trainer.devices=2"]
    sweep = tmp_path / "sweep"
    command.append(f"hydra.sweep.dir={sweep}")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)

    lines = Counter(counted.read_text().splitlines())
    of_rank = {rank: {k.split()[1]: n for k, n in lines.items() if k.startswith(rank)} for rank in ("0", "1")}
    assert of_rank["0"] == of_rank["1"] and sum(lines.values()) == 2 * sum(of_rank["0"].values()), lines
    folders = [path.parent for path in sweep.rglob(".hydra")]
    assert len(folders) == sum(of_rank["0"].values()) == {"submitit": 1}.get(launcher, 2)
    assert not (tmp_path / "outputs").exists()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    good = [folder for folder, summary in zip(folders, summaries, strict=True) if summary["status"] == "finished"]
    assert len(good) == len(folders) - of_rank["0"].get("0.4", 0)
    for folder in good:
        assert json.loads((folder / "summary.json").read_text())["world_size"] == 2
        with (folder / "metrics.csv").open(newline="") as file:
            assert [row["step"] for row in csv.DictReader(file)] == ["3", "3"]  # the epoch, the test: once
    failed = len(folders) - len(good)
    assert done.returncode == (1 if failed else 0), done.stderr[-3000:]
    assert not failed or f"error: {failed} job(s) of the sweep did not finish" in done.stderr
    assert not failed or "not with this learning rate" in done.stderr
    if launcher == "optuna":
        best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())["best_value"]
        figures = [json.loads((folder / "summary.json").read_text())["metrics"] for folder in good]
        assert best == pytest.approx(max(metrics["val/acc"] for metrics in figures), abs=0)
