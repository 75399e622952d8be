"""The command line as a user meets it: exit status, standard output, one line for a mistake."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from equality import rows
from fakes import write_cifar, write_image_folder
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from runs import TINY, TINY_CNN, TINY_DDPM, stop_after, weights

from gvr_lightning import __version__
from gvr_lightning.app.sample import main as sample
from gvr_lightning.app.train import _beside_the_first
from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.identity import config_hash
from gvr_lightning.config.resume import continue_run
from gvr_lightning.config.sweep import Outcome
from gvr_lightning.data.digits import Digits
from gvr_lightning.errors import UserError
from gvr_lightning.report.cli import main as report

ROOT = Path(__file__).parents[1]
SMALL = [*TINY, *TINY_CNN]


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def main(monkeypatch: pytest.MonkeyPatch, cwd: Path, *arguments: str) -> int:
    """``train.py`` in this process; its exit status."""
    from gvr_lightning.app.train import main as entry

    monkeypatch.setattr(Outcome, "folder", None)  # of the command before
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    try:
        entry()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_run_from_another_folder_prints_its_folder_last(tmp_path: Path) -> None:
    done = train("regularizer=gvr", "alpha=0.01", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert folder.is_relative_to(tmp_path / "outputs" / "test")
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    assert "epoch 2/2" in done.stderr and "images/s" in done.stderr and "parameters" in done.stderr
    assert "Warning" not in done.stderr and "Tip" not in done.stderr


def test_a_sweep_leaves_a_folder_for_each_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(monkeypatch, tmp_path, "-m", "regularizer=none,two_view", "seed=0,1", *SMALL) == 0
    folders = sorted(path.parent for path in (tmp_path / "outputs").rglob("summary.json"))
    assert len(folders) == 4
    seeds = [json.loads((folder / "summary.json").read_text())["seed"] for folder in folders]
    assert seeds == [0, 1, 0, 1]


def test_ctrl_c_saves_and_the_run_can_be_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["regularizer=gvr", "epochs=400", *[s for s in SMALL if not s.startswith("epochs")]]
    command = [sys.executable, str(ROOT / "train.py"), *settings]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("last.ckpt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and "resume=" in errors
    (folder,) = (path.parent for path in tmp_path.rglob("summary.json"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted" and 0 < summary["train"]["steps"] < 1200
    epochs = summary["train"]["epochs"] + 2
    assert main(monkeypatch, tmp_path, f"resume={folder.relative_to(tmp_path)}", f"epochs={epochs}") == 0
    after = json.loads((folder / "summary.json").read_text())
    assert after["status"] == "finished" and after["train"]["steps"] == 3 * epochs
    assert len(list(tmp_path.rglob("summary.json"))) == 1 and weights(folder)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_ends_a_run_with_its_own_status(
    signum: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2, signum)
        assert main(patch, tmp_path, *SMALL, f"hydra.run.dir={folder}") == status
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == f"interrupted; continue with resume={folder}" and not printed.out
    assert "Traceback" not in printed.err
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["train"]["steps"]) == ("interrupted", 2)
    assert main(monkeypatch, tmp_path, f"resume={folder}") == 0
    assert json.loads((folder / "summary.json").read_text())["train"]["steps"] == 6


def data_mistakes(tmp_path: Path) -> dict[str, tuple[list[str], list[str]]]:
    """What a user may get wrong in the data, and what the line must say."""
    photos = tmp_path / "photos"
    write_image_folder(photos, size=(8, 8))
    folder = ["data=image_folder", f"data.cache_dir={tmp_path / 'cache'}"]
    broken, no_test, empty, extra, sizes = (tmp_path / n for n in ("broken", "no_test", "empty", "extra", "sizes"))
    for copy in (broken, empty, extra, sizes):
        write_image_folder(copy, size=(8, 8))
    image = next((broken / "train").rglob("*.*g"))
    image.write_bytes(image.read_bytes()[:40])
    write_image_folder(no_test, size=(8, 8))
    for path in sorted((no_test / "test").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (no_test / "test").rmdir()
    (empty / "train" / "hollow").mkdir()
    (extra / "test" / "stranger").mkdir()
    next((extra / "test").rglob("*.*g")).rename(extra / "test" / "stranger" / "a.png")
    write_image_folder(tmp_path / "larger", size=(9, 9))
    next((tmp_path / "larger" / "train").rglob("*.*g")).replace(next((sizes / "train").rglob("*.*g")))
    write_cifar(tmp_path / "c", "cifar10", n_per_file=4)
    batch = next((tmp_path / "c").rglob("data_batch_3"))
    batch.write_bytes(b"not a pickle")
    write_cifar(tmp_path / "d", "cifar10", n_per_file=4)
    next((tmp_path / "d").rglob("data_batch_2")).unlink()
    return {
        "no such folder": ([*folder, f"data.root={tmp_path / 'nowhere'}"], ["nowhere"]),
        "a broken image": ([*folder, f"data.root={broken}"], [image.name]),
        "no test part": ([*folder, f"data.root={no_test}"], ["test"]),
        "a class without images": ([*folder, f"data.root={empty}"], ["hollow"]),
        "a class that is not trained": ([*folder, f"data.root={extra}"], ["stranger"]),
        "images of two sizes": ([*folder, f"data.root={sizes}"], ["data.image_size"]),
        "channels and moments": (
            [*folder, f"data.root={photos}", "data.mean=[0.5,0.5]", "data.std=[0.2]"],
            ["data.mean"],
        ),
        "no CIFAR and no download": (
            ["data=cifar10", f"data.root={tmp_path / 'x'}", "data.download=false"],
            ["cifar-10"],
        ),
        "a damaged CIFAR file": (["data=cifar10", f"data.root={tmp_path / 'c'}"], ["data_batch_3"]),
        "a CIFAR file missing": (["data=cifar10", f"data.root={tmp_path / 'd'}"], ["data_batch_2"]),
        "nothing to resume": ([f"resume={tmp_path / 'nowhere'}"], ["nowhere", "no run to continue"]),
        "a sweep of resumes": (["-m", f"resume={tmp_path}"], ["-m"]),
        "a network for other images": (["model=timm", "model.name=vit_tiny_patch16_224"], ["1x8x8", "options"]),
        "layers that are not there": (
            ["regularizer=gvr", "regularizer.penalty.layers=[layer9]"],
            ["layer9", "match none"],
        ),
    }


def test_mistakes_in_the_data_are_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (arguments, fragments) in data_mistakes(tmp_path).items():
        capsys.readouterr()
        assert main(monkeypatch, tmp_path, *arguments, "epochs=1") == 2, name
        printed = capsys.readouterr()
        complaints = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(complaints) == 1 and "Traceback" not in printed.err + printed.out, name
        assert all(fragment in complaints[0] for fragment in fragments), (name, complaints[0])


def test_resume_refuses_to_change_model_or_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, tmp_path, "hydra.run.dir='a, b=c'", *SMALL) == 0
    run = f"resume={tmp_path / 'a, b=c'}"
    for override, key in (
        ("model.width=16", "model.width"),
        ("seed=5", "seed"),
        ("data.augmentation.padding=2", "data.augmentation.padding"),
        ("batch_size=64", "batch_size"),
        ("model=resnet20", "model.widths"),
    ):
        assert main(monkeypatch, tmp_path, run, override) == 2
        assert key in capsys.readouterr().err
    assert main(monkeypatch, tmp_path, run, "epochs=3", "data.eval_batch_size=7") == 0
    assert main(monkeypatch, tmp_path, run, "epochs=4") == 0  # a resumed run can be resumed
    summary = json.loads((tmp_path / "a, b=c" / "summary.json").read_text())
    assert summary["train"]["steps"] == 12


def test_an_output_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outputs").write_text("a file where the folder should be")
    assert main(monkeypatch, tmp_path, *SMALL) == 2
    errors = capsys.readouterr().err
    assert "outputs" in errors and "Traceback" not in errors


def test_the_configuration_is_checked_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = ['alpa=1']\n"
        "from gvr_lightning.app.train import main\n"
        "try:\n    main()\nexcept SystemExit as end: print(end.code)\n"
        "print(sorted({'torch', 'lightning', 'torchmetrics', 'timm', 'diffusers', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["2", "[]"], done.stderr
    assert done.stderr.count("\n") == 1 and "alpa" in done.stderr and "did you mean alpha?" in done.stderr


# --- what is printed


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def written(folder: Path, overrides: list[str], **summary: Any) -> None:
    """A folder with the summary of such a run, which is finished."""
    config: Any = OmegaConf.to_container(composed(*overrides), resolve=True)
    folder.mkdir()
    done = {"status": "finished", "config_hash": config_hash(config), **summary}
    (folder / "summary.json").write_text(json.dumps(done))


PRINTED = {
    "classification": (
        [*SMALL],
        {"train/loss": 0.5, "val/acc": 0.25, "val/acc_best": 0.5, "test/acc": 0.98765, "test/loss": 1, "seconds": 9},
        "test/acc 0.9877  test/loss 1.0000  (12.3 s of training)",
    ),
    "generation": (
        [*TINY, *TINY_DDPM],
        {"train/loss": 0.5, "test/loss": 0.25, "fid": 12.3456789, "is/mean": 2.5, "is/std": 0.125, "num_images": 70}
        | {"real/fid": 1.5, "real/is/mean": 3, "real/is/std": 0.5},
        "test/loss 0.2500  fid 12.3457  is/mean 2.5000  is/std 0.1250  real/fid 1.5000  real/is/mean 3.0000"
        "  (12.3 s of training)",
    ),
}


@pytest.mark.parametrize("case", PRINTED)
def test_the_final_figures_are_printed_and_then_the_folder(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, metrics, line = PRINTED[case]
    written(tmp_path / "run", settings, metrics=metrics, train={"seconds": 12.345, "images_per_second": 99.0})
    assert main(monkeypatch, tmp_path, *settings, "resume=auto", f"hydra.run.dir={tmp_path / 'run'}") == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [line, str(tmp_path / "run")] and not printed.err


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["-c", "job"], ["-c", "job", "-p", "optimizer"]])
def test_the_value_of_a_flag_is_no_override(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, tmp_path, *flags, "lr=0.375", "--resolve") == 0
    assert "lr: 0.375" in capsys.readouterr().out and not (tmp_path / "outputs").exists()
    assert main(monkeypatch, tmp_path, *flags, "lrr=0.375") == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_the_project_s_own(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, tmp_path, "seed=1", flag) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Trains image classifiers") and not printed.err and not list(tmp_path.iterdir())


def test_the_version_is_the_project_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch, tmp_path, "seed=1", "--version") == 0
    for entry in (sample, report):
        monkeypatch.setattr(sys, "argv", ["command", "--version"])
        entry()
    assert capsys.readouterr().out.splitlines() == [f"gvr_lightning {__version__}"] * 3 and not list(tmp_path.iterdir())


def test_help_knows_one_s_own_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("# my network\n_target_: mine.net\n")
    for given in (["hydra.searchpath=[file://mine]"], ["--config-dir", "mine"]):
        assert main(monkeypatch, tmp_path, "--help", *given) == 0
        assert "    +own                  my network\n" in capsys.readouterr().out
    assert main(monkeypatch, tmp_path, "--help", "hydra.searchpath=[file://nowhere]") == 2
    assert capsys.readouterr().err == (
        f"error: hydra.searchpath=[file://nowhere]: there is no folder {tmp_path / 'nowhere'}\n"
    )


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_passively_unless_the_user_says_else(
    before: str | None, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    main(monkeypatch, tmp_path, "--help")
    assert os.environ["OMP_WAIT_POLICY"] == after


@pytest.mark.parametrize(("rank", "beside"), [(0, False), (1, True), (4, True)])  # 4: the first of the second machine
def test_hydra_leaves_no_folder_for_processes_beside_the_first(
    rank: int, beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": rank, "WORLD_SIZE": 8, "LOCAL_RANK": rank % 4, "LOCAL_WORLD_SIZE": 4}
    for name, value in (place | {"TORCHELASTIC_RUN_ID": "a", "MASTER_ADDR": "node1", "MASTER_PORT": 1}).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told = _beside_the_first(multirun=False)
    folders = [str(path) for path in tmp_path.iterdir()]
    assert told == ([f"hydra.run.dir='{folders[0]}'", "hydra.output_subdir=null"] if beside else [])
    assert len(folders) == beside


# --- how a run fails


class Failing(Digits):
    """A source that cannot be read, for one reason or another."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self) -> Any:
        raise {
            "read": PermissionError(13, "not yours", "a file"),
            "bug": ZeroDivisionError("a mistake in the code"),
            "ctrl-c": KeyboardInterrupt(),
        }[self.how]


FAILURES = {  # overrides -> status, what the last line is without and with a checkpoint of before
    "read": (1, "error: cannot read or write: [Errno 13] not yours: 'a file'"),
    "bug": (2, "error: data: ZeroDivisionError: a mistake in the code; the traceback is in FOLDER/traceback.txt"),
    "ctrl-c": (130, "interrupted"),
}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_before_training(
    how: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = FAILURES[how]
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    if kept:
        (folder / "checkpoints" / "last.ckpt").touch()
    source = ["data.source._target_=test_cli.Failing", f"+data.source.how={how}"]
    assert main(monkeypatch, tmp_path, *SMALL, *source, f"hydra.run.dir={folder}") == status
    printed = capsys.readouterr()
    way_out = f"; what was saved before is untouched; continue with resume={folder}" if kept and how == "read" else ""
    assert (printed.err.splitlines() or [""])[-1] == line.replace("FOLDER", str(folder)) + way_out and not printed.out
    assert "Traceback" not in printed.err and (folder / "traceback.txt").exists() == (how == "bug")
    assert how != "bug" or "in __call__" in (folder / "traceback.txt").read_text()


@pytest.mark.parametrize("every", ["null", "1"])
def test_a_run_that_cannot_go_on_says_how_to_continue_where_it_can_be(
    every: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*SMALL, "lr=1e20", f"checkpoint.every_n_steps={every}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(monkeypatch, tmp_path, *settings) == 1
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert last.startswith("error: ") and "not finite at step" in last and not printed.out
    assert last.endswith(f"; continue with resume={tmp_path / 'run'}") == (every == "1")
    assert printed.err.count("resume=") == (every == "1")


def test_a_job_that_fails_stops_no_other_and_the_status_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", "lr=1e20,0.1", "hydra.sweep.dir=all", "hydra.sweep.subdir=${hydra.job.num}", *SMALL]
    assert main(monkeypatch, tmp_path, *arguments) == 1
    found = [json.loads((tmp_path / "all" / n / "summary.json").read_text()) for n in ("0", "1")]
    assert [summary["status"] for summary in found] == ["failed", "finished"]
    *_, first, second = capsys.readouterr().err.splitlines()
    assert first == "error: 1 job(s) of the sweep did not finish:"
    assert second == f"  {tmp_path / 'all' / '0'}: failed: {found[0]['error']}" and "not finite" in second


# --- resume=<run>


def started(folder: Path, overrides: list[str], checkpoint: str = "last.ckpt") -> None:
    """A folder as a run leaves it that was started so."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / checkpoint).touch()
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    OmegaConf.save(composed(*overrides), folder / "config.yaml", resolve=True)


def test_a_run_is_continued_with_its_own_command_line_and_then_with_what_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    started(folder, ["resume=elsewhere", "name=a", "lr=0.5", "epochs=3"], checkpoint="previous.ckpt")
    quoted = str(folder).replace("'", "\\'")
    assert continue_run(["--resolve", f"resume='{folder}'", "epochs=9"]) == [
        *("name=a", "lr=0.5", "epochs=3", "--resolve", "epochs=9"),
        *(f"resume='{quoted}'", f"hydra.run.dir='{quoted}'"),
    ]
    for arguments in (["lr=0.1"], ["resume=auto"], ["resume=null", "lr=0.1"], ["resume="]):
        assert continue_run(arguments) == arguments


@pytest.mark.parametrize("gone", [".hydra/overrides.yaml", "config.yaml", "checkpoints/last.ckpt"])
def test_what_a_run_lacks_to_be_continued_is_named(gone: str, tmp_path: Path) -> None:
    started(tmp_path / "run", ["name=a"])
    (tmp_path / "run" / gone).unlink()
    with pytest.raises(UserError, match=f"there is no {tmp_path / 'run' / gone}, so there is no run to continue"):
        continue_run([f"resume={tmp_path / 'run'}"])
    for flag in ("-m", "--multirun"):
        with pytest.raises(UserError, match="resume continues one run: leave -m out"):
            continue_run([f"resume={tmp_path / 'run'}", flag])


CHANGES = {  # an override -> the keys that no continuation may change; none where it may
    "model.width=48": "model.width",
    "model=resnet20": "model._target_, model.blocks, model.bottleneck, model.groups, model.width, model.widths",
    "data.max_train=10": "data.max_train",
    "data.val_fraction=0.3": "data.val_fraction",
    "data.augmentation.flip=true": "data.augmentation.flip",
    "label_noise=symmetric label_noise.rate=0.4": (
        "label_noise._target_, label_noise.rate, label_noise.seed, label_noise.validation"
    ),
    "seed=1": "seed",
    "batch_size=64": "batch_size",
    "seed=1 batch_size=64": "batch_size, seed",
    "lr=0.3 alpha=7 epochs=90 optimizer=adam regularizer=gvr trainer.devices=2 name=b test_on=best": "",
    "data.on_device=false data.eval_batch_size=3": "",
}


@pytest.mark.parametrize("changes", CHANGES)
def test_a_continuation_may_change_anything_but_model_and_data(changes: str, tmp_path: Path) -> None:
    started(tmp_path / "run", ["name=a"])
    if not CHANGES[changes]:
        assert continue_run([f"resume={tmp_path / 'run'}", *changes.split()])[1:-2] == changes.split()
        return
    with pytest.raises(UserError) as stop:
        continue_run([f"resume={tmp_path / 'run'}", *changes.split()])
    said = f"resume={tmp_path / 'run'}: a run's model and data cannot change: {CHANGES[changes]}; start a new run"
    assert str(stop.value) == said


@pytest.mark.parametrize(
    ("changes", "refused"),
    [("task.noise.timesteps=50", "task.noise.timesteps"), ("sampler.steps=7", ""), ("task.ema_decay=0.5", "")],
)
def test_a_diffusion_run_keeps_its_noise(changes: str, refused: str, tmp_path: Path) -> None:
    started(tmp_path / "run", ["task=ddpm", "name=a"])
    if not refused:
        assert changes in continue_run([f"resume={tmp_path / 'run'}", changes])
        return
    with pytest.raises(UserError, match=f"cannot change: {refused}; start"):
        continue_run([f"resume={tmp_path / 'run'}", changes])


def test_where_the_images_lie_may_change(tmp_path: Path) -> None:
    folder = ["data=image_folder", "data.root=there", "data.image_size=8"]
    started(tmp_path / "run", folder)
    moved = ["data.root=here", "data.cache_dir=there", "data.source.workers=1"]
    assert continue_run([f"resume={tmp_path / 'run'}", *moved])[3:-2] == moved
    with pytest.raises(UserError, match="cannot change: data"):
        continue_run([f"resume={tmp_path / 'run'}", "data.image_size=9"])


# --- resume=auto


def auto(monkeypatch: pytest.MonkeyPatch, folder: Path, *overrides: str) -> dict[str, Any]:
    """``resume=auto`` in a folder; the summary."""
    settings = [*SMALL, "regularizer=gvr", "resume=auto", f"hydra.run.dir={folder}", *overrides]
    assert main(monkeypatch, folder.parent, *settings) == 0
    return json.loads((folder / "summary.json").read_text())


def resumed_from(folder: Path) -> str | None:
    return OmegaConf.load(folder / "config.yaml").resume


@pytest.fixture
def run(finished: Callable[..., Path], tmp_path: Path) -> Path:
    """A finished run's folder, to change."""
    return Path(shutil.copytree(finished("regularizer=gvr"), tmp_path / "run"))


def test_a_finished_run_is_not_run_again_unless_its_configuration_changed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((run / "summary.json").read_text())
    times = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert auto(monkeypatch, run, "name=other") == before  # a name is no configuration
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "epoch" not in capsys.readouterr().err
    after = auto(monkeypatch, run, "epochs=3")
    assert after["train"]["steps"] == 9 and after["config_hash"] != before["config_hash"]
    assert resumed_from(run) == str(run)


@pytest.mark.parametrize("status", ["interrupted", "failed", None])
def test_a_run_that_did_not_finish_goes_on(status: str | None, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, path = rows(run), run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}) if status else "{")
    after = auto(monkeypatch, run)
    assert after["status"] == "finished" and resumed_from(run) == str(run) and rows(run) == before


def test_the_checkpoint_before_the_last_is_enough_to_go_on(
    run: Path, finished: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "summary.json").unlink()
    assert auto(monkeypatch, run)["train"]["steps"] == 6 and resumed_from(run) == str(run)
    whole = [[{k: v for k, v in r.items() if k != "train/seconds"} for r in rows(f)]
             for f in (run, finished("regularizer=gvr"))]  # fmt: skip
    assert whole[0] == whole[1]


def test_without_a_checkpoint_a_run_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").touch()
    assert auto(monkeypatch, tmp_path / "run", "epochs=1")["train"]["steps"] == 3
    assert resumed_from(tmp_path / "run") is None


def test_auto_refuses_another_model_or_other_data(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*SMALL, "regularizer=gvr", "resume=auto", f"hydra.run.dir={run}", "seed=5"]
    assert main(monkeypatch, run.parent, *settings) == 2
    assert f"error: resume={run}: a run's model and data cannot change: seed" in capsys.readouterr().err
    assert json.loads((run / "summary.json").read_text())["seed"] == 0


def test_without_auto_a_finished_run_s_folder_is_started_over(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(monkeypatch, run.parent, *SMALL, "regularizer=gvr", "epochs=1", f"hydra.run.dir={run}") == 0
    assert json.loads((run / "summary.json").read_text())["train"]["steps"] == 3 and resumed_from(run) is None
