"""The command line as a user meets it: exit status, standard output, one line for a mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import write_cifar, write_image_folder
from runs import TINY, TINY_CNN, weights

ROOT = Path(__file__).parents[1]
SMALL = [*TINY, *TINY_CNN]


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def main(monkeypatch: pytest.MonkeyPatch, cwd: Path, *arguments: str) -> int:
    """``train.py`` in this process; its exit status."""
    from gvr_lightning.cli import main as entry

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


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_can_be_continued(
    signum: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["regularizer=gvr", "epochs=400", *[s for s in SMALL if not s.startswith("epochs")]]
    command = [sys.executable, str(ROOT / "train.py"), *settings]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "Traceback" not in errors and "resume=" in errors
    (folder,) = (path.parent for path in tmp_path.rglob("summary.json"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted" and 0 < summary["train"]["steps"] < 1200
    epochs = summary["train"]["epochs"] + 2
    assert main(monkeypatch, tmp_path, f"resume={folder.relative_to(tmp_path)}", f"epochs={epochs}") == 0
    after = json.loads((folder / "summary.json").read_text())
    assert after["status"] == "finished" and after["train"]["steps"] == 3 * epochs
    assert len(list(tmp_path.rglob("summary.json"))) == 1 and weights(folder)


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


def test_the_configuration_is_checked_in_no_time_and_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time; start = time.perf_counter(); sys.argv[1:] = ['alpa=1'];"
        "from gvr_lightning.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end: print(end.code)\n"
        "print('torch' in sys.modules, time.perf_counter() - start < 3)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["2", "False", "True"], done.stderr
    assert done.stderr.count("\n") == 1 and "alpa" in done.stderr and "did you mean alpha?" in done.stderr
