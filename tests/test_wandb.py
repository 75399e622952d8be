"""logger=wandb, read back from what an offline run leaves: nothing here reaches a network."""

import importlib.util
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf
from runs import TINY, TINY_CNN, TINY_DDPM, stop_after, tiny_run
from wandb_file import offline_runs

from gvr_lightning.app import train as cli
from gvr_lightning.config.sweep import Outcome
from gvr_lightning.errors import Interrupted, TrainingError, UserError
from gvr_lightning.recording.csv import read_metrics
from gvr_lightning.tracking import session
from gvr_lightning.tracking.factory import _identity, _study, weights_and_biases
from gvr_lightning.tracking.logger import WandbRun

ROOT = Path(__file__).parents[1]
ONLINE = ["logger=wandb", "logger.job_type=test", "logger.sweep=null"]  # a sweep and its choices only Hydra knows
OFFLINE = [*ONLINE, "logger.mode=offline"]
AXES = {  # what each figure is drawn over
    **dict.fromkeys(("train/*", "val/*", "lr", "lr/*", "fid", "is/*", "real/*"), "epoch"),
    **dict.fromkeys(("step/*", "agr/*", "test/*"), "trainer/step"),
    "trainer/row": "",
}


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Without the user's key and settings, and with a server that is not there."""
    home = tmp_path_factory.mktemp("home")
    tiny_run(home / "before", "epochs=1", "data.max_train=32")  # Lightning and scikit-learn set variables, once
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("WANDB_CONFIG_DIR", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        yield


def state() -> tuple[Any, ...]:
    """What a job must leave as it was."""
    return dict(os.environ), sys.exit, sys.excepthook, signal.getsignal(signal.SIGINT), wandb.run


def only(folder: Path) -> dict[str, Any]:
    """The one W&B run of a job."""
    (run,) = offline_runs(folder)
    return run


def logged(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a history, without W&B's own columns and the pictures."""
    pictures = ("_", "samples/", "curves/", "confusion/", "tables/")
    rows = [{name: value for name, value in row.items() if not name.startswith(pictures)} for row in history]
    return [row for row in rows if row]


def written(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.csv, as W&B has them."""
    rows = [{name: float(value) for name, value in row.items()} for row in read_metrics(folder / "metrics.csv")]
    return [{"trainer/step": row.pop("step"), "trainer/row": i, **row} for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two jobs in one process, with what they must not change looked at after each."""
    folders = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]
    before = state()
    settings = ["regularizer=gvr_agr", "trainer.log_every_n_steps=1", "logger.group=study", "logger.tags=[a,1]"]
    settings += ["logger.project=digits", "logger.entity=lab"]
    tiny_run(folders[0], *OFFLINE, *settings, "logger.job_type=gvr_agr")
    assert state() == before
    tiny_run(folders[1], *OFFLINE, "lr=0.05", "name=other")
    assert state() == before
    return folders


@pytest.mark.parametrize("text", ["", "[]", "{", '{"id": 3, "study": "a"}', '{"id": "a"}', '"id"'])
def test_a_damaged_identity_is_said(text: str, tmp_path: Path) -> None:
    path = tmp_path / "wandb" / "run.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=r"run.json is damaged: remove it, and the run goes on as a new one in W&B"):
        _identity(tmp_path, True, "study")
    assert _identity(tmp_path, False, "study") == json.loads(path.read_text())


def test_every_job_is_a_run_of_its_own(jobs: list[Path]) -> None:
    first, second = (only(folder)["run"] for folder in jobs)
    assert first.run_id != second.run_id
    assert json.loads((jobs[0] / "wandb" / "run.json").read_text())["id"] == first.run_id
    assert json.loads((jobs[1] / "wandb" / "run.json").read_text()) == {"id": second.run_id, "study": "other"}
    labels = [
        (run.entity, run.project, run.display_name, run.run_group, run.job_type, [*run.tags]) for run in (first, second)
    ]
    assert labels == [
        ("lab", "digits", "test", "study", "gvr_agr", ["a", "1"]),
        ("", "gvr_lightning", "other", "other", "test", []),
    ]
    assert not first.resumed and not second.resumed


def test_what_a_run_holds(jobs: list[Path]) -> None:
    for folder in jobs:
        run, summary = only(folder), json.loads((folder / "summary.json").read_text())
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        assert {key: run["config"][key] for key in config} == config  # type: ignore[union-attr]
        origin = run["config"]["origin"]
        assert {key: summary[key] for key in origin} == origin and origin["versions"]["torch"]
        assert run["run"].git.commit == (summary["git"]["commit"] or "")
        rows = written(folder)
        assert logged(run["history"]) == rows and len(rows) >= 3
        assert [row["_step"] for row in run["history"]] == list(range(len(rows) + 1))  # the last has the curves
        assert run["axes"] == AXES and run["exit"] == 0
        for name, value in summary["metrics"].items():
            if name not in ("train/seconds", "train/images"):  # rounded, in the summary
                assert run["summary"][name] == pytest.approx(value), name
        accuracies = [row["val/acc"] for row in rows if "val/acc" in row]
        assert run["summary"]["val/acc"] == accuracies[-1] and run["summary"]["best/val/acc"] == max(accuracies)
        assert run["summary"]["best/val/acc"] == summary["metrics"]["val/acc_best"]
        for name, value in summary["train"].items():
            if name not in ("seconds", "images"):  # the last row's own
                assert run["summary"][f"train/{name}"] == value, name
        assert run["summary"]["train/images_per_second"] > 0
        ended = {key: run["summary"].get(key) for key in ("status", "error", "data_hash")}
        assert ended == {"status": "finished", "error": None, "data_hash": summary["data_hash"]}
        (picture,) = folder.glob(f"wandb/offline-run-*/files/{run['summary']['curves/path']}")
        assert picture.read_bytes() == (folder / "curves.png").read_bytes()
        for name in ("tables/classes", "tables/confusion"):
            (table,) = folder.glob(f"wandb/offline-run-*/files/{run['summary'][f'{name}/path']}")
            assert [row[0] for row in json.loads(table.read_text())["data"]] == summary["classes"]


def test_a_failed_job_is_closed_as_failed(tmp_path: Path) -> None:
    before = wandb.run
    with pytest.raises(TrainingError, match="not finite"):
        tiny_run(tmp_path / "bad", *OFFLINE, "lr=1e20")
    assert wandb.run is before is None and "WANDB_SERVICE" not in os.environ
    tiny_run(tmp_path / "good", *OFFLINE, "epochs=1")
    bad, good = only(tmp_path / "bad"), only(tmp_path / "good")
    assert (bad["exit"], good["exit"]) == (1, 0) and bad["run"].run_id != good["run"].run_id
    assert bad["summary"]["status"] == "failed" and "not finite" in bad["summary"]["error"]
    assert logged(good["history"]) == written(tmp_path / "good") and "error" not in good["summary"]


def test_a_resumed_run_goes_on_with_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [*OFFLINE, "epochs=3", "data.max_train=70", "trainer.log_every_n_steps=1"]
    with monkeypatch.context() as patch:
        stop_after(patch, 5, signal.SIGINT)
        with pytest.raises(Interrupted):
            tiny_run(tmp_path, *settings, "name=study")
    tiny_run(tmp_path, *settings, f"resume={tmp_path}", "name=renamed")
    first, second = offline_runs(tmp_path)
    assert first["run"].run_id == second["run"].run_id and second["run"].resume
    assert first["run"].run_group == second["run"].run_group == "study"
    assert (first["exit"], second["exit"]) == (1, 0) and first["summary"]["status"] == "interrupted"
    done, rest = (logged(run["history"]) for run in (first, second))
    assert done and rest and done + rest == written(tmp_path)
    assert second["history"][0]["_step"] == len(done)
    steps = [row["trainer/step"] for row in done + rest]
    assert steps == sorted(steps) and steps[-1] == 9


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion run that draws after every epoch."""
    folder = tmp_path_factory.mktemp("generated")
    tiny_run(folder, *TINY_DDPM, *OFFLINE, "generation.every_n_epochs=1")
    return folder


def test_generated_images_are_shown(generated: Path) -> None:
    run = only(generated)
    grids = [row for row in run["history"] if "samples/grid/path" in row]
    assert [row["trainer/step"] for row in grids] == [3, 6]  # in the row of the epoch, and of the test
    assert "train/loss" in grids[0] and "fid" in grids[1]
    drawn = [
        *((row["samples/grid/path"], name) for row, name in zip(grids, ("epoch_0001", "final"), strict=True)),
        *((row["samples/denoising/path"], "denoising") for row in run["history"] if "samples/denoising/path" in row),
    ]
    assert len(drawn) == 3
    for path, name in drawn:
        (picture,) = generated.glob(f"wandb/offline-run-*/files/{path}")
        assert picture.read_bytes() == (generated / "samples" / f"{name}.png").read_bytes()
    assert logged(run["history"]) == written(generated)


def test_how_a_run_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quietly, with the commit of this code, and not waiting for ever."""
    monkeypatch.chdir(tmp_path)
    run = session.begin("offline", "offline", "c0ffee", {"project": "p", "dir": str(tmp_path), "config": {"lr": 0.5}})
    try:
        asked = run.settings
        assert (asked.init_timeout, asked.finish_timeout, asked.finish_timeout_raises) == (15, 120, True)
        assert asked.silent and asked.console == "off" and asked.disable_git and asked.git_commit == "c0ffee"
        logger = WandbRun(run, tmp_path)
        assert (logger.name, logger.version) == ("p", run.id) and run.offline and wandb.run is None
        run.finish()
    finally:
        session.leave()


def test_the_end_is_told_where_a_run_did_not_finish(tmp_path: Path) -> None:
    """Of a generating task the best is the lowest loss; an interrupted run has no figures of the test."""
    run = session.begin("offline", "offline", None, {"project": "p", "dir": str(tmp_path)})
    ended = {"status": "interrupted", "metrics": {"val/loss": 0.5, "val/loss_best": 0.25, "fid": 9.0}}
    WandbRun(run, tmp_path).close(ended | {"train": {"steps": 7}, "data_hash": "abc", "seed": 3})
    (found,) = offline_runs(tmp_path)
    told = {name: value for name, value in found["summary"].items() if not name.startswith("_")}
    expected = {"val/loss": 0.5, "val/loss_best": 0.25, "best/val/loss": 0.25, "fid": 9.0, "train/steps": 7}
    assert told == expected | {"status": "interrupted", "data_hash": "abc"} and found["exit"] == 1
    assert wandb.run is None and "WANDB_SERVICE" not in os.environ


def test_the_id_is_a_new_run_s_own_and_a_resumed_run_s_of_before(tmp_path: Path) -> None:
    first = _identity(tmp_path, False, "a")
    assert len(first["id"]) == 12 and first["study"] == "a"
    assert _identity(tmp_path, True, "b") == first != _identity(tmp_path, False, "a")
    assert _identity(tmp_path / "lost", True, "b")["study"] == "b"


def test_after_a_single_update_a_run_goes_on_and_from_the_start_it_is_another(tmp_path: Path) -> None:
    ids = []
    for step in (0, 1, 0):
        *_, logger = weights_and_biases(tmp_path, step, 0, {"name": "a", "seed": 0}, mode="offline")
        ids.append(logger.version)
        logger.close({"status": "finished"})  # type: ignore[attr-defined]
    assert ids[0] == ids[1] != ids[2]


def test_settings_that_wandb_refuses_are_one_line(tmp_path: Path) -> None:
    before = state()
    with pytest.raises(UserError, match=r"^logger=wandb: [^\n]+$"):
        tiny_run(tmp_path, *OFFLINE, "logger.project='a/b'")
    assert state() == before


class Resumed:
    """A W&B run that goes on online, as far as the logger sees it: what the server has, and what it is sent."""

    resumed, dir = True, "files"

    def __init__(self, starting_step: int, step: int, row: int) -> None:
        self.starting_step, self.summary = starting_step, {"trainer/step": step, "trainer/row": row}
        self.sent: dict[int, tuple[int, int]] = {}

    def define_metric(self, name: str, **options: Any) -> None:
        pass

    def log(self, row: dict[str, Any], step: int, commit: bool) -> None:
        self.sent[step] = row["trainer/step"], row["trainer/row"]


def test_no_row_is_lost_or_told_twice_when_a_run_goes_on_online(tmp_path: Path) -> None:
    """W&B drops rows below its own step, of which curves and a test make more than metrics.csv keeps."""
    finished = Resumed(5, step=9, row=3)  # three epochs, the test, the curves
    ahead = Resumed(4, step=4, row=3)  # killed with more sent than saved
    behind = Resumed(1, step=1, row=0)  # killed with more saved than sent
    level = Resumed(3, step=3, row=2)  # killed between two rows of one step
    cases = (
        (finished, [3, 6, 9], [12, 15, 15]),
        (ahead, [1, 2], [3, 4, 5]),
        (behind, [1, 2, 3, 3], [4]),
        (level, [1, 2, 3], [3, 4]),
    )
    for run, kept, steps in cases:
        rows = [{"step": str(step), "val/acc": "0.5"} for step in kept]
        logger = WandbRun(run, tmp_path, rows)  # type: ignore[arg-type]
        for step in steps:
            logger.log_metrics({"val/acc": 0.5}, step)
    assert finished.sent == {5: (12, 3), 6: (15, 4), 7: (15, 5)}
    assert ahead.sent == {4: (5, 4)}
    assert level.sent == {3: (3, 3), 4: (4, 4)}
    assert behind.sent == {4: (2, 1), 5: (3, 2), 6: (3, 3), 7: (4, 4)}


# --- where W&B cannot be had


def test_without_a_key_a_run_goes_on_offline(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny_run(tmp_path, *ONLINE, "epochs=1")
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line or "wandb" in line]
    assert said.startswith("W&B: there is no API key here; logging offline: send it later with `wandb sync ")
    assert Path(said.split("wandb sync ")[1].rstrip("`")) == next(tmp_path.glob("wandb/offline-run-*"))
    assert only(tmp_path)["exit"] == 0 and logged(only(tmp_path)["history"]) == written(tmp_path)


def test_without_a_key_a_run_stops_if_it_is_told_to(tmp_path: Path) -> None:
    before = state()
    with pytest.raises(UserError, match=r"^logger=wandb: .*key.*`wandb login`.*logger.mode=offline$"):
        tiny_run(tmp_path, *ONLINE, "logger.on_error=stop")
    assert state() == before
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"
    assert not (tmp_path / "checkpoints").exists() and offline_runs(tmp_path) == []


def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(session, "CONNECT", 1.0)
    with pytest.raises(UserError, match=r"^logger=wandb: [^\n]*127\.0\.0\.1[^\n]*logger.mode=offline$"):
        tiny_run(tmp_path / "stopped", *ONLINE, "logger.on_error=stop")
    capfd.readouterr()
    before = state()
    tiny_run(tmp_path / "run", *ONLINE, "epochs=1")
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line or "wandb" in line]
    assert "connection refused" in said and "logging offline" in said
    runs = [run for run in offline_runs(tmp_path / "run") if run["history"]]
    assert len(runs) == 1 and runs[0]["exit"] == 0 and state() == before


def test_trouble_on_the_way_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log, calls = wandb.Run.log, []

    def breaks(self: wandb.Run, *args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise ConnectionError("the service\nis gone")
        log(self, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", breaks)
    summary = tiny_run(tmp_path, *OFFLINE)
    assert summary["status"] == "finished" and len(calls) == 2 and len(written(tmp_path)) == 3
    assert capfd.readouterr().err.count("W&B: the service is gone: nothing more is logged there") == 1
    assert only(tmp_path)["exit"] == 0 and wandb.run is None and "WANDB_SERVICE" not in os.environ


def test_what_could_not_be_sent_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def too_slow(self: wandb.Run, exit_code: int) -> None:
        raise TimeoutError("the upload took too long")

    monkeypatch.setattr(wandb.Run, "finish", too_slow)
    assert tiny_run(tmp_path, *OFFLINE, "epochs=1")["status"] == "finished"
    (files,) = tmp_path.glob("wandb/offline-run-*")
    said = capfd.readouterr().err
    assert f"W&B: the upload took too long; send what is missing with `wandb sync {files}`" in said
    assert wandb.run is None and "WANDB_SERVICE" not in os.environ


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        tiny_run(tmp_path, *OFFLINE)


# --- sweeps


def test_the_jobs_of_a_sweep_are_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _study(tmp_path / "study" / "0", str(tmp_path / "study"), "digits-gvr") == "study"
    assert _study(tmp_path / "alone", str(tmp_path / "study"), "digits-gvr") == "digits-gvr"
    sweep = ["-m", "regularizer=none,gvr", f"hydra.sweep.dir={tmp_path / 'study'}"]
    settings = [*(s for s in TINY if not s.startswith("name")), *TINY_CNN, "epochs=1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *sweep, *settings, "logger=wandb", "logger.mode=offline"])
    monkeypatch.setattr(Outcome, "folder", None)
    cli.main()
    runs = [only(folder.parent) for folder in sorted(tmp_path.glob("study/*/.hydra"))]
    assert {run["run"].run_group for run in runs} == {"study"} and [run["exit"] for run in runs] == [0, 0]
    assert [run["run"].job_type for run in runs] == ["none", "gvr"]
    assert len({run["run"].run_id for run in runs}) == 2


# --- the dashboard


def dashboard() -> Any:
    spec: Any = importlib.util.spec_from_file_location("wandb_dashboard", ROOT / "experiments" / "wandb_dashboard.py")
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # wandb-workspaces' own, of pydantic
        spec.loader.exec_module(module)
    return module


def test_the_dashboard_shows_what_runs_log(jobs: list[Path], generated: Path) -> None:
    board = dashboard()
    shown = board.describe(board.workspace("me", "gvr_lightning", "study"))
    runs = [*(only(folder) for folder in jobs), only(generated)]
    columns = {name for folder in (*jobs, generated) for row in written(folder) for name in row}
    of_summary = {name for run in runs for name in run["summary"]}
    pictures = {name.removesuffix("/path") for run in runs for row in run["history"] for name in row}
    panels = [panel for section in shown["sections"].values() for panel in section]
    assert {"LinePlot", "BarPlot", "MediaBrowser", "RunComparer"} == {panel["kind"] for panel in panels}
    for panel in panels:
        pattern = panel.get("metric_regex", "")
        assert {panel["x"], *panel.get("y", [])} <= columns if "x" in panel else True, panel
        assert not pattern or any(name.startswith(pattern.removesuffix(".*")) for name in columns), panel
        assert set(panel.get("metrics", [])) <= of_summary and set(panel.get("media_keys", [])) <= pictures, panel
    assert set(shown["runs"]["columns"]) <= of_summary
    assert shown["runs"]["group by"] == ["Group", "JobType"] and "'study'" in shown["runs"]["filter"]


def test_the_dashboard_s_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    board = dashboard()
    monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", "group=study"])
    board.main()
    assert json.loads(capsys.readouterr().out)["name"] == "study study"
    mistakes = {"grop=a": "grop", "save=yes": "true or false", "save=true": "entity=", "save=true entity=me": "key"}
    for words, says in mistakes.items():
        monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", *words.split()])
        with pytest.raises(SystemExit) as stop:
            board.main()
        said = capsys.readouterr().err
        assert stop.value.code == 2 and says in said and said.count("\n") == 1, said
    assert wandb.run is None and "WANDB_SERVICE" not in os.environ
