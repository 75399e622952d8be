"""A run's folder: one process at a time, nothing of another run, whole files; and how a run ends that went wrong."""

import csv
import json
import multiprocessing as mp
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from equality import assert_equal_rows, rows
from hydra import compose, initialize_config_dir
from painting import painted
from runs import TINY, TINY_CNN, stop_after, tiny_run, weights
from test_cli import main

from gvr_lightning.app.job import train
from gvr_lightning.app.streams import Unbreakable
from gvr_lightning.app.taken import taken
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.started import STARTED, read_started, write_started
from gvr_lightning.errors import Interrupted, TrainingError, UserError
from gvr_lightning.files import atomic, read_json, read_text, read_yaml
from gvr_lightning.recording.summary import read_summary, write_summary

SMALL = [*TINY, *TINY_CNN]


def hold(folder: str, ready: Any, go_on: Any) -> None:
    with taken(Path(folder)):
        ready.set()
        go_on.wait(60)


def test_a_folder_is_one_process_s_at_a_time_and_a_dead_one_holds_none(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    ready, go_on = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path / "run"), ready, go_on))
    process.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match="another process is at work on this run"), taken(tmp_path / "run"):
        pass
    with taken(tmp_path / "other"):
        pass
    process.kill()
    process.join()
    for _ in range(2):
        with taken(tmp_path / "run"):
            pass


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "config.yaml"])
def test_a_folder_in_a_file_s_place_is_said_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is a folder, where the run has a file: move it away"):
        tiny_run(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_run_that_starts_where_another_was_keeps_that_one_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run(tmp_path, "seed=3")
    kept = {name: (tmp_path / name).read_bytes() for name in ("summary.json", "metrics.csv", "checkpoints/last.ckpt")}
    with monkeypatch.context() as patch:
        stop_after(patch, 1, 10)
        patch.setattr(
            "gvr_lightning.callbacks.checkpoints.Checkpoints.save", lambda *_: None
        )  # killed before the first
        with pytest.raises(Interrupted):
            tiny_run(tmp_path, "seed=4")
    aside = tmp_path / "checkpoints" / "before_1"
    assert f"the run that was here before is in {aside}" in capsys.readouterr().err
    assert all((aside / Path(name).name).read_bytes() == content for name, content in kept.items())
    with pytest.raises(UserError, match=r"there is no checkpoint .*last.ckpt"):
        tiny_run(tmp_path, "seed=4", f"resume={tmp_path}")
    tiny_run(tmp_path, "seed=5")
    assert not (tmp_path / "checkpoints" / "before_2").exists()  # that one came to nothing
    tiny_run(tmp_path, "seed=6")
    assert (tmp_path / "checkpoints" / "before_2" / "last.ckpt").exists()
    assert json.loads((tmp_path / "summary.json").read_text())["seed"] == 6


def test_the_checkpoint_says_what_the_run_is(finished: Callable[..., Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished("regularizer=gvr"), tmp_path / "run"))
    shutil.copy(finished("seed=1") / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"resume=.*: a run's model and data cannot change: seed"):
        tiny_run(run, "regularizer=gvr", "epochs=3", f"resume={run}")


@pytest.mark.parametrize("damage", ["removed", "emptied", "cut", "another", "a bit"])
def test_metrics_are_those_of_the_checkpoint(damage: str, finished: Callable[..., Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished("epochs=2", "scheduler=constant"), tmp_path / "run"))
    path, content = run / "metrics.csv", (run / "metrics.csv").read_bytes()
    damaged = {
        "emptied": b"",
        "cut": content[: len(content) // 2],
        "another": b"step,x\n1,2\n",
        "a bit": content.replace(b"1", b"3", 1),
    }
    path.unlink() if damage == "removed" else path.write_bytes(damaged[damage])
    tiny_run(run, "epochs=3", "scheduler=constant", f"resume={run}")
    assert_equal_rows(finished("epochs=3", "scheduler=constant"), run, rounding=0)


FILES = ["config.yaml", ".hydra/overrides.yaml", ".hydra/started.json", "metrics.csv", "summary.json", "curves.png"]
FILES += ["checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt"]
MADE_ANEW = (".hydra/overrides.yaml", "summary.json", "curves.png")  # without a look at what is there
HOWS = ["empty", "cut", "garbage", "gone", "folder", "bit"]


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        flipped = bytearray(content)
        flipped[len(flipped) // 2] ^= 4
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"{[: - \t!!python/object:x",
                          "bit": bytes(flipped)}[how])  # fmt: skip


@pytest.fixture(scope="module")
def before_and_after(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two epochs, and a copy that has gone on to a third."""
    folder = tmp_path_factory.mktemp("damaged")
    settings = [*SMALL, "regularizer=gvr", "scheduler=constant", "test_on=best", f"hydra.run.dir={folder / 'run'}"]
    with pytest.MonkeyPatch.context() as patch:
        assert main(patch, folder, *settings) == 0
        whole = Path(shutil.copytree(folder / "run", folder / "whole"))
        assert main(patch, folder, f"resume={whole}", "epochs=3") == 0
    return folder / "run", whole


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_folder_goes_on_bit_for_bit_or_says_so_in_a_line(
    how: str,
    before_and_after: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (kept, whole), run, went_on = before_and_after, tmp_path / "run", 0
    good = weights(whole)
    alone = FILES if how == "folder" else [file for file in FILES if file not in MADE_ANEW]
    for file in alone if alone == FILES else [*alone, "all of them"]:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(kept, run)
        for path in MADE_ANEW if file == "all of them" else [file]:
            damaged(run / path, how)
        capsys.readouterr()
        status = main(monkeypatch, tmp_path, f"resume={run}", "epochs=3")
        said = capsys.readouterr().err
        assert "Traceback" not in said, (file, said)
        assert status == 0 or file != "all of them", said
        if status == 0:
            went_on += 1
            assert all(torch.equal(value, good[name]) for name, value in weights(run).items()), file
            assert_equal_rows(whole, run, rounding=0)
        else:
            assert status in (1, 2) and said.count("error: ") == 1, (file, status, said)
            others = [name for name in FILES if name.endswith(".ckpt") and name != file]
            assert all((run / name).read_bytes() == (kept / name).read_bytes() for name in others), file
    assert went_on >= 2


def test_what_a_run_was_started_with_is_whole_or_damaged(tmp_path: Path) -> None:
    write_started(tmp_path, ["a=1", "name='ü, b'"])
    assert read_started(tmp_path) == (tmp_path / STARTED, ["a=1", "name='ü, b'"])
    for text in ("", "[]", "{}", '{"overrides": ["a=2"], "sha256": "x"}', (tmp_path / STARTED).read_text()[:-9]):
        (tmp_path / STARTED).write_text(text)
        with pytest.raises(UserError, match="is damaged, so the run cannot be continued"):
            read_started(tmp_path)


def test_a_run_that_is_not_finite_has_failed(tmp_path: Path) -> None:
    """One update, whose loss was finite."""
    with pytest.raises(TrainingError, match=r"is (not finite|nan|inf) at the end of training: try a lower lr"):
        tiny_run(tmp_path, "lr=1e30", "epochs=1", "batch_size=80")
    text = (tmp_path / "summary.json").read_text()
    summary = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert summary["status"] == "failed" and "lower lr" in summary["error"]


def test_an_update_that_overflows_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"update at step 0 overflows: use a lower lr \(now 1e\+38\)"):
        tiny_run(tmp_path, "lr=1e38", "optimizer=adam", "epochs=1")
    assert read_summary(tmp_path)["status"] == "failed"


def test_of_several_processes_the_first_holds_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the parent be killed, they go on for a moment, and another start has to wait for their end."""

    def launch(work: Callable[..., None], arguments: tuple[Any, ...], *_: Any) -> None:
        work(*arguments)

    def run(cfg: Any, folder: Path, overrides: list[str]) -> None:
        with pytest.raises(UserError, match="another process is at work on this run"), taken(folder):
            pass
        write_summary(folder / "summary.json", {"status": "seen"})

    monkeypatch.setattr("gvr_lightning.app.job.launch", launch)
    monkeypatch.setattr("gvr_lightning.app.run.run", run)
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose("config", overrides=[*SMALL, "trainer.devices=2"])
    assert train(cfg, tmp_path / "run", [])["status"] == "seen"
    with taken(tmp_path / "run"):
        pass


def test_a_summary_is_json_whatever_its_figures(tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}})
    assert read_summary(tmp_path) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_curves_and_names_that_cannot_be_drawn_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_run(tmp_path / "a", "name='$\\frac{$'", "epochs=1", pictures=painted)["status"] == "finished"
    assert (tmp_path / "a" / "curves.png").stat().st_size > 1000

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("no ink")

    monkeypatch.setattr("gvr_lightning.app.run.draw_curves", broken)
    assert tiny_run(tmp_path / "b", "epochs=1", pictures=nullcontext)["status"] == "finished"
    assert f"{tmp_path / 'b' / 'curves.png'}: no ink" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / "c" / "curves.png").mkdir(parents=True)
    assert tiny_run(tmp_path / "c", "epochs=1", pictures=painted)["status"] == "finished"
    assert f"{tmp_path / 'c' / 'curves.png'}: " in capsys.readouterr().err and not plt.get_fignums()


def test_the_cause_is_told_where_the_summary_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gvr_lightning.app.run.write_summary", full)
    with pytest.raises(TrainingError, match="lower lr"):
        tiny_run(tmp_path / "a", "lr=1e30", "epochs=1")
    with pytest.raises(OSError, match="No space left"):
        tiny_run(tmp_path / "b", "epochs=1")


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path / 'x'}'"):
        atomic(tmp_path / "x", full)
    assert not list(tmp_path.iterdir())


def test_text_files_are_regular_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zero", tmp_path):
        with pytest.raises(ValueError, match=r"it is a (folder|pipe or a device)"):
            read_text(path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")
    for text, words in {"- " * 100 + "x": "too deeply", "a: &a [*a]": "refers to itself", "{[: -": "expected"}.items():
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_yaml(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("!!python/object/apply:os.mkdir [ran]")
    with pytest.raises(ValueError, match="constructor"):
        read_yaml(tmp_path / "x.yaml")
    monkeypatch.setattr("gvr_lightning.files.LARGEST", 3)
    with pytest.raises(ValueError, match="more than 0 MB"):
        read_text(tmp_path / "x.yaml")


def test_output_that_nobody_reads_ends_nothing(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as broken:
        stream = Unbreakable(broken)
        for _ in range(2):
            assert stream.write("x" * 100_000) == 100_000
            stream.flush()
    command = [sys.executable, "-m", "gvr_lightning", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr


def test_every_row_of_metrics_is_written(finished: Callable[..., Path]) -> None:
    folder = finished("regularizer=gvr")
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    kept = list(csv.DictReader(content["metrics"].splitlines()))
    assert len(kept) == content["metrics_rows"] == len(rows(folder)) - 1  # the test's row comes later
    assert content["ViewsDataModule"]["classes"] == [str(i) for i in range(10)]
