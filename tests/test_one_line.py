"""What is silently other than it says, or ends in many lines, by ordinary mistakes: each kind with its examples."""

import csv
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from fake_runs import fake_run
from runs import TINY, TINY_CNN, tiny_run
from test_cli import main
from torch import nn

from gvr_lightning.checkpoint import load_checkpoint
from gvr_lightning.config.check import check
from gvr_lightning.config.flags import separate
from gvr_lightning.config.resume import continue_run
from gvr_lightning.config.sweep import LONGEST, job_folder, job_names
from gvr_lightning.data.digits import Digits
from gvr_lightning.data.image_set import ImageSet, Splits, require_whole
from gvr_lightning.errors import Interrupted, TrainingError, UserError
from gvr_lightning.instantiate import make
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.timm_network import timm_network
from gvr_lightning.report.cli import main as report
from gvr_lightning.tracking.factory import weights_and_biases

SMALL = [*TINY, *TINY_CNN, "epochs=1"]

# --- flags


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("seed=0,1 -m lr=0.1", ["-m"]),
        ("lr=0.1 --cfg job seed=1 --resolve", ["--cfg", "job", "--resolve"]),
        ("-p optimizer lr=0.1 --info=config", ["-p", "optimizer", "--info=config"]),
        ("a=1 --multirun b=2 c=3", ["--multirun"]),
        ("lr=0.1", []),
    ],
)
def test_flags_stand_anywhere_with_their_values(line: str, flags: list[str]) -> None:
    said, found, settings = separate(line.split())
    assert (found == flags and [*flags, *settings] != line.split()) or not flags or line.startswith("-")
    assert settings == [word for word in line.split() if "=" in word and not word.startswith("-")]
    assert said.multirun == bool({"-m", "--multirun"} & set(flags))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-x", "-x: there is no such flag"),
        ("lr=1 --fast seed=1", "--fast: there is no such flag"),
        ("--cfg nothing", "invalid choice: 'nothing'"),
        ("-cn other", "--config-name other: the configuration is this project's"),
        ("--config-path=x", "--config-path x"),
        ("-cd nowhere", "--config-dir nowhere: there is no such folder"),
        ("--package", "expected one argument"),
    ],
)
def test_a_flag_that_is_wrong_is_one_line(line: str, words: str) -> None:
    with pytest.raises(UserError) as stop:
        separate(line.split())
    assert words in str(stop.value) and "\n" not in str(stop.value)


def test_a_folder_of_configurations_is_added_by_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "own.yaml").write_text("_target_: torch.optim.ASGD\n_partial_: true\nlr: 0.5\n")
    assert main(monkeypatch, tmp_path, "optimizer=own", "--cfg", "job", "-cd", "mine") == 0
    assert "torch.optim.ASGD" in capsys.readouterr().out
    assert main(monkeypatch, tmp_path, "optimizer=own", "--cfg", "job") == 2


def test_a_run_is_continued_by_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"continued by its folder: resume={tmp_path / 'a'}$"):
        continue_run([f"resume={tmp_path / 'a' / 'checkpoints' / 'last.ckpt'}"])


# --- sweeps and folders


def test_a_job_s_folder_says_what_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["seed=0,1", "lr=0.1", "name=x", "~optimizer.nesterov", "optimizer=sgd", "hydra.verbose=false"]
    (names,) = job_names(line)
    assert names == "hydra.job.config.override_dirname.exclude_keys=[lr,name,optimizer.nesterov,optimizer,resume,trust]"
    assert job_names([*line, "hydra.job.config.override_dirname.exclude_keys=[a]"]) == []
    assert job_folder(3, "seed-1") == "3_seed-1" and job_folder(0, "") == "0"
    assert job_folder(1, "data.root-/a/b:c") == "1_data.root--a-b-c"
    first, second = (job_folder(1, "x" * 300 + end) for end in "ab")
    assert first != second and len(first.encode()) <= LONGEST + 2 and first.startswith("1_xxx")
    assert len(job_folder(1, "é" * 300).encode()) <= LONGEST + 2
    settings = [*SMALL, *(f"{key}=0.0" for key in ("optimizer.weight_decay", "data.augmentation.cutout_prob"))]
    assert main(monkeypatch, tmp_path, "-m", "seed=0,1", *settings, "hydra.sweep.dir=s") == 0
    assert sorted(path.name for path in (tmp_path / "s").iterdir() if path.is_dir()) == ["0_seed-0", "1_seed-1"]


def test_paths_mean_what_they_meant_where_they_were_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[str] = []

    def spy(*_: Any) -> Any:
        where.append(os.getcwd())
        raise UserError("enough")

    monkeypatch.setattr("gvr_lightning.app.job.train", spy)
    assert main(monkeypatch, tmp_path, *SMALL, "hydra.job.chdir=true") == 2
    assert where == [str(tmp_path)]


@pytest.mark.filterwarnings("ignore")  # Optuna's and SQLAlchemy's own, of each other
def test_a_search_whose_trials_all_failed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise TrainingError("not today")

    monkeypatch.setattr("gvr_lightning.app.job.train", fail)
    optuna = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "lr=choice(0.1,0.2)"]
    assert main(monkeypatch, tmp_path, "-m", *SMALL, *optuna, "hydra.sweep.dir=s") == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and "error: 2 job(s) of the sweep did not finish" in said


# --- data


GOOD = ImageSet(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 3)
SOURCES: dict[str, tuple[Any, str]] = {
    "something else": ((GOOD, GOOD), "gives a tuple, not"),
    "float images": (
        ImageSet(torch.rand(6, 1, 4, 4), GOOD.targets),
        "train.images are float32 (6, 1, 4, 4), not uint8",
    ),
    "no channels": (ImageSet(GOOD.images[:, 0], GOOD.targets), "uint8 (6, 4, 4)"),
    "no images": (ImageSet(GOOD.images[:0], GOOD.targets[:0]), "uint8 (0, 1, 4, 4)"),
    "labels from 1": (ImageSet(GOOD.images, GOOD.targets + 1), "targets run from 1 to 3, where 3 classes are 0 to 2"),
    "negative labels": (ImageSet(GOOD.images, GOOD.targets - 1), "targets run from -1 to 1"),
    "float labels": (ImageSet(GOOD.images, GOOD.targets.float()), "targets are float32 (6,), not int64 (6,)"),
    "a label too few": (ImageSet(GOOD.images, GOOD.targets[1:]), "targets are int64 (5,), not int64 (6,)"),
    "arrays": (ImageSet(GOOD.images.numpy(), GOOD.targets), "train.images are ndarray"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("how", SOURCES)
def test_a_source_of_one_s_own_is_looked_at(how: str) -> None:
    part, words = SOURCES[how]
    good = Splits(GOOD, GOOD, ("a", "b", "c"), "x")
    assert require_whole(good) is good
    for splits in [replace(good, train=part), replace(good, test=part)] if isinstance(part, ImageSet) else [part]:
        with pytest.raises(UserError) as stop:
            require_whole(splits)
        expected = words if splits is part or splits.train is part else words.replace("train.", "test.")
        assert expected in str(stop.value)
    other = ImageSet(torch.zeros(6, 3, 4, 4, dtype=torch.uint8), GOOD.targets)
    with pytest.raises(UserError, match=r"training images are \(1, 4, 4\) and the test images \(3, 4, 4\)"):
        require_whole(replace(good, test=other))


class Wrong(Digits):
    """Its labels begin at 1."""

    def __call__(self) -> Splits:
        splits = super().__call__()
        return replace(splits, train=ImageSet(splits.train.images, splits.train.targets + 1))


def test_a_run_looks_at_its_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.source: train.targets run from 1 to 10"):
        tiny_run(tmp_path, "data.source._target_=test_one_line.Wrong")


def normed(image_shape: tuple[int, int, int], num_classes: int, pooled: bool = True) -> SplitNetwork:
    """BatchNorm over the rows alone, or over pixels, too."""
    first = [nn.AdaptiveAvgPool2d(1)] if pooled else []
    norm = nn.Sequential(*first, nn.BatchNorm2d(1), nn.Flatten())
    features = 1 if pooled else image_shape[1] * image_shape[2]
    return SplitNetwork(norm, nn.Identity(), nn.Linear(features, num_classes))


NORMED = ["model._target_=test_one_line.normed", "~model.width", "~model.groups", "epochs=1"]


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        (["batch_size=32", "data.max_train=65"], True),
        (["batch_size=64", "task.accumulate=64", "data.max_train=64"], True),
        (["batch_size=6", "task.accumulate=2", "data.max_train=8"], True),  # the last two are a row each
        (["batch_size=32", "data.max_train=66"], False),
        (["batch_size=32", "data.max_train=65", "+model.pooled=false"], False),
    ],
)
def test_a_single_row_of_a_batch_is_told_at_the_start(settings: list[str], refused: bool, tmp_path: Path) -> None:
    if not refused:
        assert tiny_run(tmp_path, *NORMED, *settings)["status"] == "finished"
        return
    with pytest.raises(UserError, match=r"batch_size=\d+: \d+ training images .* a single one .*BatchNorm"):
        tiny_run(tmp_path, *NORMED, *settings)


def test_a_file_of_data_may_leave_out_what_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    node = {"source": {"_target_": "gvr_lightning.data.digits.Digits"}, "val_fraction": 0.1, "max_train": 64}
    node["augmentation"] = {"_target_": "gvr_lightning.data.augmentation.Augmentation", "padding": 1, "flip": False}
    (tmp_path / "mine" / "data" / "own.yaml").write_text(yaml.safe_dump(node))
    line = [s for s in SMALL if not s.startswith("data.")]
    assert main(monkeypatch, tmp_path, "data=own", *line, "--config-dir", "mine", "hydra.run.dir=r") == 0
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["train"]["samples"] == 64


# --- what is built


def test_what_is_built_is_of_the_kind_that_is_needed() -> None:
    with pytest.raises(UserError, match=r"^x._target_=math.factorial: gives a int, not something that can be called"):
        make({"_target_": "math.factorial", "_args_": [3]}, "x", Callable)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"model._target_=builtins.dict: gives a dict, not a Module"):
        make({"_target_": "builtins.dict"}, "model", nn.Module)
    with pytest.raises(UserError, match=r"^x: TypeError: .*") as stop:
        make({"_target_": "math.sqrt", "x": 1}, "x")
    assert "Traceback" in stop.value.details and "\n" not in str(stop.value)


def test_a_strategy_of_another_kind_is_refused_also_where_there_is_one_process(tmp_path: Path) -> None:
    other = "trainer.strategy={_target_: lightning.pytorch.strategies.DDPStrategy}"
    with pytest.raises(UserError, match=r"^trainer.strategy._target_=.*: gives a DDPStrategy, not a OneStatistics"):
        tiny_run(tmp_path, "trainer.devices=1", other)


def test_weights_that_no_network_gives_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("huggingface_hub")
    before, during = logger.level, []

    def offline(*_: Any, **__: Any) -> Any:
        during.append(logger.level)
        raise OSError("no network,\nreally")

    monkeypatch.setattr(timm, "create_model", offline)
    words = "timm cannot load the weights of 'resnet18': no network, really; pretrained=false starts afresh"
    with pytest.raises(ValueError, match=words):
        timm_network((3, 8, 8), 2, "resnet18", pretrained=True)
    assert during == [logging.ERROR] and logger.level == before


def frozen(image_shape: tuple[int, int, int], num_classes: int) -> SplitNetwork:
    """Only the head learns."""
    stage = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).requires_grad_(False)
    return SplitNetwork(nn.Identity(), stage, nn.Linear(4, num_classes))


def test_a_frozen_stage_gets_the_true_message(tmp_path: Path) -> None:
    model = ["model._target_=test_one_line.frozen", "~model.width", "~model.groups", "epochs=1"]
    with pytest.raises(UserError, match="every parameter of the network's last stage is frozen: use layers=head"):
        tiny_run(tmp_path / "a", *model, "regularizer=gvr_last_stage")
    assert tiny_run(tmp_path / "b", *model, "regularizer=gvr_agr")["status"] == "finished"


# --- W&B's mode, validation now and then, signals before training


@pytest.mark.parametrize(
    ("env", "mode", "expected"),
    [("disabled", None, None), ("offline", None, "offline"), ("dryrun", None, "offline"), ("", None, "online"),
     ("disabled", "offline", "offline"), ("offline", "online", "online"), ("offline", "disabled", None)],
)  # fmt: skip
def test_the_mode_of_the_environment_counts_unless_one_is_given(
    env: str, mode: str | None, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def begin(mode: str, *_: Any) -> Any:
        asked.append(mode)
        raise UserError("enough")

    monkeypatch.setattr("gvr_lightning.tracking.factory.begin", begin)
    monkeypatch.setenv("WANDB_MODE", env)
    config = {"name": "x", "seed": 0}
    if expected is None:
        (only,) = weights_and_biases(tmp_path, config=config, mode=mode)
        assert only.name == "metrics" and not asked
    else:
        with pytest.raises(UserError, match="enough"):
            weights_and_biases(tmp_path, config=config, mode=mode)
        assert asked == [expected]
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(UserError, match="WANDB_MODE=sometimes: one of online, offline, disabled"):
        weights_and_biases(tmp_path, config=config)


def test_the_best_of_epochs_that_were_validated(tmp_path: Path) -> None:
    """Also where a run goes on, and has validated nothing yet."""
    settings = ["+trainer.check_val_every_n_epoch=2", "scheduler=constant", "lr=1e-12"]
    for name, epochs in (("none", 1), ("one", 2)):
        tiny_run(tmp_path / name, *settings, f"epochs={epochs}")
    for name, best in (("none", None), ("one", 1)):
        folder = tmp_path / name
        if best is not None:
            tiny_run(folder, *settings, "epochs=3", f"resume={folder}")
        kept = load_checkpoint(folder / "checkpoints" / "last.ckpt")["callbacks"]["Checkpoints"]
        assert (kept["best"] is None) == (best is None) and kept["best_epoch"] == (best or 0)
        assert load_checkpoint(folder / "checkpoints" / "best.ckpt")["epoch"] == (best or 0)


def stopped(*_: Any) -> Any:
    import signal

    signal.raise_signal(signal.SIGTERM)


class Stopped(Digits):
    """SIGTERM while the images are read."""

    def __call__(self) -> Splits:
        stopped()
        return super().__call__()


def test_a_signal_while_a_run_is_built(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        tiny_run(tmp_path, "data.source._target_=test_one_line.Stopped")
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "interrupted"


# --- the report on anything


def odd(folder: Path, how: str) -> None:
    """A good run with one odd thing."""
    summary, config = (
        json.loads((folder / "summary.json").read_text()),
        yaml.safe_load((folder / "config.yaml").read_text()),
    )
    summary.pop("config_hash", None)
    if how == "git":
        summary["git"] = "abc"
    elif how == "keys":
        config.update({1: 2, None: 3})
    elif how == "huge":
        summary["metrics"]["test/acc"] = 10**400
    elif how == "train":
        summary["train"] = {"epochs": [1], "seconds": "x"}
    elif how == "seed":
        summary["seed"] = 10**30
    elif how == "self":
        config["regularizer"]["x"] = config["regularizer"]
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if how == "deep":
        (folder / "summary.json").write_text("[" * 100_000)
    if how in ("pipe", "zero"):
        (folder / "metrics.csv").unlink()
        os.mkfifo(folder / "metrics.csv") if how == "pipe" else (folder / "metrics.csv").symlink_to("/dev/zero")


ODD = ["git", "keys", "huge", "train", "seed", "self", "deep", "pipe", "zero"]


@pytest.mark.parametrize("how", ODD)
def test_one_odd_run_stops_no_report(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (0, 1):
        fake_run(tmp_path / "runs" / f"good{seed}", "none", seed=seed)
    fake_run(tmp_path / "runs" / "odd", "none", seed=2)
    odd(tmp_path / "runs" / "odd", how)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gvr-report", "runs", "out=out"])
    report()
    with (tmp_path / "out" / "runs.csv").open(newline="") as file:
        (line,) = [row for row in csv.DictReader(file) if "odd" in row["folder"]]
    assert line["status"] == "not read" and line["reason"]


def test_numbers_for_keys_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a map of label noise has them."""
    for seed in (0, 1):
        fake_run(tmp_path / "runs" / str(seed), "none", seed=seed, keys={"optimizer.map": {3: 5, 1: 7}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gvr-report", "runs", "out=out"])
    report()
    with (tmp_path / "out" / "runs.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished"] * 2


def test_figures_too_large_to_square_are_infinite_and_formulas_are_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        fake_run(tmp_path / "runs" / f"good{seed}", "none", seed=seed)
    fake_run(tmp_path / "runs" / "=1+2", "none", seed=2)
    path = tmp_path / "runs" / "=1+2" / "metrics.csv"
    header = path.read_text().splitlines()[0]
    path.write_text(header + "\n" + ",".join(["-1e308"] * len(header.split(","))) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gvr-report", "runs", "out=out"])
    report()
    with (tmp_path / "out" / "runs.csv").open(newline="") as file:
        names = [row["folder"] for row in csv.DictReader(file)]
    assert "'=1+2" in names and not any(name.startswith("=") for name in names)


def test_keys_that_are_checked_before_anything_is_loaded() -> None:
    check(["name=a/b"], multirun=False)
    with pytest.raises(UserError, match="longer than 200"):
        check([f"name={'x' * 300}"], multirun=False)
