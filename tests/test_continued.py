"""What the command line makes of ``resume=``: a run's own settings again, and what of them may not change."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.resume import continue_run, refuse_another
from gvr_lightning.errors import UserError

CLASSIFIED = ["name=x", "data=image_folder", "data.root=photos", "label_noise=symmetric", "model=small_cnn"]
GENERATED = ["name=x", "task=ddpm", "data=cifar10", "extractor=none"]
Start = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """The folder of a run as far as the check of a command line looks at it."""

    def make(*overrides: str, name: str = "run") -> Path:
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            cfg = compose("config", overrides=[a for a in overrides if not a.startswith("hydra")])
        (folder / "config.yaml").write_text(yaml.safe_dump(OmegaConf.to_container(cfg, resolve=True)))
        return folder

    return make


def refusal(folder: Path, *further: str) -> str:
    with pytest.raises(UserError) as caught:
        continue_run([f"resume={folder}", *further])
    return str(caught.value)


def test_a_run_goes_on_with_its_own_settings_and_those_that_follow(start: Start) -> None:
    folder = start("name=x", "lr=0.1", "resume=null", "epochs=7")
    here = [f"resume='{folder}'", f"hydra.run.dir='{folder}'"]
    assert continue_run([f"resume={folder}"]) == ["name=x", "lr=0.1", "epochs=7", *here]
    assert continue_run(["epochs=9", f"resume='{folder}'", "lr=0.2"]) == [
        *("name=x", "lr=0.1", "epochs=7", "epochs=9", "lr=0.2", *here)
    ]


def test_without_a_folder_nothing_changes() -> None:
    for arguments in (["lr=0.1"], ["resume="], ["resume=null"], ["resume=auto", "lr=0.1"], ["-m", "seed=0,1"]):
        assert continue_run(arguments) == arguments


def test_a_folder_with_a_quote_is_quoted(start: Start) -> None:
    folder = start("name=x", name="it's a \\ run")
    where = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    assert continue_run([f"resume={folder}"])[1:] == [f"resume='{where}'", f"hydra.run.dir='{where}'"]


def test_a_folder_in_the_home_folder(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start("name=x")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert f"resume='{folder}'" in continue_run([f"resume=~/{folder.name}"])


def test_what_is_missing_of_a_run_is_named(start: Start, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert refusal(nowhere) == f"resume={nowhere}: there is no {nowhere}, so there is no run to continue"
    folder = start("name=x")
    (folder / "checkpoints" / "last.ckpt").rename(folder / "checkpoints" / "previous.ckpt")
    assert continue_run([f"resume={folder}"])[0] == "name=x"  # the one before is enough
    (folder / ".hydra" / "overrides.yaml").unlink()
    assert f"there is no {folder / '.hydra' / 'overrides.yaml'}" in refusal(folder)
    (folder / "checkpoints" / "previous.ckpt").unlink()
    for path in ("checkpoints/last.ckpt", "config.yaml"):
        (folder / path).unlink(missing_ok=True)
        assert f"there is no {folder / path}" in refusal(folder)


def test_a_sweep_continues_no_run(start: Start) -> None:
    folder = start("name=x")
    for flag in ("-m", "--multirun"):
        assert "leave -m out" in refusal(folder, flag)


def test_what_a_run_is_may_not_change(start: Start) -> None:
    folder = start(*CLASSIFIED)
    for override, keys in {
        "seed=1": "seed",
        "batch_size=64": "batch_size",
        "model.width=16": "model.width",
        "model.width=16 model.groups=16": "model.groups, model.width",
        "model=resnet20": "model._target_, model.blocks, model.bottleneck, model.groups, model.width, model.widths",
        "data.image_size=9": "data.image_size, data.source.image_size",
        "data.val_fraction=0.2": "data.val_fraction",
        "data.max_train=50": "data.max_train",
        "data.mean=[0.5]": "data.mean",
        "data.augmentation.flip=false": "data.augmentation.flip",
        "label_noise.rate=0.2": "label_noise.rate",
        "label_noise.seed=1": "label_noise.seed",
        "parameters.freeze=backbone": "parameters.freeze",
        "task.ema_decay=0.9": "task.ema_decay",
        "parameters.lr_scale={head:2} parameters.no_decay=norm_bias": "parameters.lr_scale.head, parameters.no_decay",
        "label_noise=none": "label_noise._target_, label_noise.rate, label_noise.seed, label_noise.validation",
    }.items():
        assert refusal(folder, *override.split()) == (
            f"resume={folder}: a run's model and data cannot change: {keys}; start a new run"
        )
    may = ["root=elsewhere", "cache_dir=/x", "workers=2", "on_device=false", "eval_batch_size=7"]  # where data lies
    others = ["lr=0.5", "alpha=3", "epochs=99", "optimizer=adam", "regularizer=gvr", "trainer=cpu", "test_on=best"]
    further = [*(f"data.{key}" for key in may), *others, "task.clip_norm=1", "--resolve", "hydra.verbose=true"]
    assert continue_run([f"resume={folder}", *further])[: len(CLASSIFIED + further)] == [*CLASSIFIED, *further]


def test_what_a_diffusion_run_learns_may_not_change(start: Start) -> None:
    folder = start(*GENERATED)
    for override, key in {
        "task.noise.timesteps=10": "task.noise.timesteps",
        "task.noise.prediction=v": "task.noise.prediction",
        "task.noise.beta_schedule=linear": "task.noise.beta_schedule",
        "model.dropout=0.5": "model.dropout",
    }.items():
        assert f"cannot change: {key};" in refusal(folder, override)
    further = ["sampler.steps=5", "generation.grid=4", "task.ema_decay=0.9", "data.download=false"]
    assert continue_run([f"resume={folder}", *further])[4:8] == further


def test_what_does_not_compose_is_left_to_the_check(start: Start) -> None:
    folder = start(*CLASSIFIED)
    for override in ("nothing=1", "model=resnet21", "lr=${alpa}", "lr=[1"):
        assert override in continue_run([f"resume={folder}", override])


def test_the_run_that_is_there_must_be_the_same(start: Start) -> None:
    """As a run asks of its checkpoint, with a configuration that is composed already."""
    before = OmegaConf.to_container(OmegaConf.load(start(*CLASSIFIED) / "config.yaml"))
    now = copy.deepcopy(before)
    refuse_another("it", before, now)
    now["lr"], now["data"]["root"] = 0.9, "elsewhere"
    refuse_another("it", before, now)
    now["seed"] = 4
    with pytest.raises(UserError, match=r"it: a run's model and data cannot change: seed; start a new run"):
        refuse_another("it", before, now)
