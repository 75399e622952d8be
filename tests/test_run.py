"""Whole runs: every configuration on tiny data, what a run leaves, interruption and resume."""

import errno
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import write_cifar, write_image_folder
from omegaconf import OmegaConf
from painting import drawn, painted
from runs import TINY_DDPM, TINY_UNET, stop_after, tiny_run, weights

from gvr_lightning.config.folder import conf_folder
from gvr_lightning.config.sweep import expand
from gvr_lightning.data.batch_maker import BatchMaker
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.digits import Digits
from gvr_lightning.errors import Interrupted, TrainingError, UserError
from gvr_lightning.recording.csv import read_metrics

SMALL = {
    "trainer=gpu": ["trainer.accelerator=gpu"],  # the small runs are on the CPU, unless told otherwise
    "task=ddpm": TINY_DDPM,
    "model=unet_small": TINY_DDPM,
    "model=unet_cifar10": TINY_DDPM,
    "model=unet_cifar10_small": TINY_DDPM,
    "sampler=ddim": TINY_DDPM,
    "sampler=ddpm": [*TINY_DDPM, "task.noise.timesteps=20", "sampler.steps=null"],
    "extractor=auto": TINY_DDPM,
    "extractor=classifier": TINY_DDPM,
    "extractor=none": TINY_DDPM,
    "extractor=efficientnet": [*TINY_DDPM, "extractor.size=32", "generation.allow_few=true"],
    "experiment=agr_ddpm_digits": TINY_DDPM[1:],
    "model=resnet18": ["model.widths=[4,8]"],
    "model=resnet20": ["model.widths=[4,8]"],
    "model=wide_resnet": ["model.depth=10", "model.widen=1"],
    **{f"model=resnet{n}": ["model.widths=[4,8]", "model.blocks=[1,2]"] for n in (34, 50)},
    "model=vgg11": ["model.width=2", "model.hidden=8"],
    "model=vit_tiny_32": ["+model.options={img_size: 8, embed_dim: 8, depth: 2, num_heads: 2}"],
    "model=swin_tiny_32": [
        "+model.options={img_size: 8, patch_size: 1, window_size: 2, embed_dim: 8, depths: [1, 1], num_heads: [1, 2]}"
    ],
    "model=convnext_32": ["+model.options={dims: [4, 4, 8, 8], depths: [1, 1, 1, 1]}"],
    "model=timm": [
        "model.name=vit_tiny_patch16_224",
        "model.options={img_size: 8, patch_size: 4, embed_dim: 8, depth: 2, num_heads: 2}",
    ],
    "experiment=agr_tinyvit_tiny_imagenet": [
        "model.options={embed_dims: [8, 8, 8, 8], num_heads: [1, 1, 1, 1], window_sizes: [2, 2, 2, 2]}"
    ],
    "experiment=agr_swin_tiny_imagenet": [
        "+model.options={img_size: 32, window_size: 2, embed_dim: 8, depths: [1, 1], num_heads: [1, 1]}"
    ],
    "experiment=agr_convnext_tiny_imagenet": ["+model.options={dims: [4, 4, 8, 8], depths: [1, 1, 1, 1]}"],
    "logger=tensorboard": [],
    "label_noise=asymmetric": ["label_noise.map={3: 5}"],
    "logger=wandb": ["logger.mode=offline", "logger.job_type=test", "logger.sweep=null"],
    "scheduler=warmup": ["scheduler.warmup_steps=3"],
    "scheduler=warmup_cosine": ["scheduler.warmup_steps=3"],
}  # fmt: skip


def leaves() -> list[str]:
    """Every option of every group, as an override."""
    return sorted(f"{path.parent.name}={path.stem}" for path in conf_folder().glob("*/*.yaml"))


def overrides_for(leaf: str, tmp_path: Path) -> list[str]:
    group, _, option = leaf.partition("=")
    if group == "sweep":  # its first job
        return [swept.partition(",")[0] for swept in expand([leaf]) if "=" in swept]
    if option == "image_folder":
        write_image_folder(tmp_path / "photos", size=(9, 8))
        return [leaf, f"data.root={tmp_path / 'photos'}", "data.image_size=8", f"data.cache_dir={tmp_path / 'cache'}"]
    if option.endswith("tiny_imagenet"):
        write_image_folder(tmp_path, size=(32, 32))
        small = ["data.image_size=32", "data.test_folder=test", "epochs=1", "batch_size=32", *SMALL[leaf]]
        return [leaf, f"data.root={tmp_path}", f"data.cache_dir={tmp_path / 'cache'}", *small]
    if leaf == "label_noise=file":
        np.save(tmp_path / "labels.npy", Digits()().train.targets.roll(1))
        return [leaf, f"label_noise.path={tmp_path / 'labels.npy'}"]
    if option == "huggingface":
        images = write_image_folder(tmp_path / "photos", size=(9, 8))
        return [leaf, f"data.path={images}", "data.image_size=8", f"data.cache_dir={tmp_path / 'cache'}"]
    if "cifar" in option and group in ("data", "experiment"):
        if option.startswith("gvr_cifar10_small"):
            write_image_folder(tmp_path, size=(32, 32))
            small = ["data.image_size=8", f"data.cache_dir={tmp_path / 'cache'}", "model.widths=[4,8]"]
            return [leaf, f"data.root={tmp_path}", *small, "trainer.check_val_every_n_epoch=1"]
        for name in ("cifar10", "cifar100"):
            write_cifar(tmp_path, name, n_per_file=24)
        network = TINY_UNET if "ddpm" in option else ["model.widths=[4,8]"]
        if "vgg11" in option:
            small = ["model.width=2", "model.hidden=8", "epochs=1"]
            return [leaf, f"data.root={tmp_path}", "data.eval_batch_size=16", *small]
        generation = ["extractor=none", "sampler.steps=3"] if "ddpm" in option else []
        small = [*network, "model.blocks=1", "epochs=1", *generation]
        return [leaf, f"data.root={tmp_path}", "data.eval_batch_size=16", *(small if group == "experiment" else [])]
    return [leaf, *SMALL.get(leaf, [])]


@pytest.mark.parametrize("leaf", leaves())
def test_every_configuration_runs(leaf: str, tmp_path: Path) -> None:
    if leaf == "trainer=gpu" and not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"trainer: .*[gG][pP][uU]"):
            tiny_run(tmp_path / "run", *overrides_for(leaf, tmp_path))
        return
    if leaf.startswith("extractor=inception"):  # its weights are a download; tests/test_metrics.py runs it
        with pytest.raises(UserError, match=r"extractor\.weights"):
            tiny_run(tmp_path / "run", leaf, *TINY_DDPM, "extractor.weights=nowhere.pth")
        return
    cnn = not leaf.startswith(("model=", "experiment=")) or leaf == "model=small_cnn"
    summary = tiny_run(tmp_path / "run", *overrides_for(leaf, tmp_path), cnn=cnn, pictures=drawn)
    assert summary["status"] == "finished" and summary["train"]["steps"] > 0
    assert leaf != "trainer=gpu" or summary["machine"]["gpu"] == torch.cuda.get_device_name()
    metrics = summary["metrics"]
    assert all(math.isfinite(v) for v in metrics.values() if not isinstance(v, str))
    if summary["task"] == "classification":
        assert 0 <= metrics["test/acc"] <= metrics["test/top5"] <= 1
    else:
        assert metrics["test/loss"] > 0 and (tmp_path / "run" / "samples" / "final.png").exists()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adan", "acprop"])
@pytest.mark.parametrize("regularizer", ["agr", "gvr_agr"])
def test_regularizers_go_with_every_optimizer(optimizer: str, regularizer: str, tmp_path: Path) -> None:
    summary = tiny_run(tmp_path, f"optimizer={optimizer}", f"regularizer={regularizer}", "trainer.log_every_n_steps=1")
    assert summary["status"] == "finished"
    row = next(r for r in read_metrics(tmp_path / "metrics.csv") if "agr/mean_coef/100-9999" in r)
    assert (
        0
        < float(row["agr/mean_coef/100-9999"])
        < float(row["agr/mean_coef/2-99"])
        < float(row["agr/max_coef/2-99"])
        < 1
    )


def test_what_a_run_leaves(tmp_path: Path) -> None:
    returned = tiny_run(tmp_path, "regularizer=gvr", "seed=3", "data.val_fraction=0.1", pictures=painted)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == returned
    assert (summary["status"], summary["task"], summary["seed"], summary["world_size"]) == (
        "finished",
        "classification",
        3,
        1,
    )
    assert {"test/acc", "test/loss", "test/ece", "test/top5", "val/acc", "train/loss"} <= set(summary["metrics"])
    assert summary["train"]["epochs"] == 2 and summary["train"]["steps"] == 6
    assert summary["train"]["samples"] == 160 and summary["train"]["images"] == 320
    assert len(summary["config_hash"]) == len(summary["data_hash"]) == 64 and summary["versions"]["torch"]
    config = OmegaConf.load(tmp_path / "config.yaml")
    assert config.regularizer.penalty.alpha == 0.01 and config.optimizer.lr == 0.02  # resolved
    rows = read_metrics(tmp_path / "metrics.csv")
    epochs = [row for row in rows if "train/loss" in row]
    assert [row["epoch"] for row in epochs] == ["0", "1"] and [row["step"] for row in epochs] == ["3", "6"]
    assert {"train/penalty", "train/penalty_share", "train/view_agreement", "train/acc", "val/ece", "lr"} <= set(
        epochs[0]
    )
    assert "test/acc" in rows[-1]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    last, best = (torch.load(tmp_path / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("last", "best"))
    assert last["global_step"] == 6 and best["state_dict"].keys() == last["state_dict"].keys()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]


def test_training_never_sees_the_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    modules: list[ViewsDataModule] = []
    setup, original = ViewsDataModule.setup, BatchMaker.as_it_is

    def spied_setup(self: ViewsDataModule, stage: str | None = None) -> None:
        modules.append(self)
        setup(self, stage)

    def spy(self: BatchMaker, index: torch.Tensor, images: Any, *further: Any) -> Any:
        if images is modules[-1]._splits.test:
            assert modules[-1].trainer.testing  # type: ignore[union-attr]
            seen.extend(index.tolist())
        return original(self, index, images, *further)

    monkeypatch.setattr(ViewsDataModule, "setup", spied_setup)
    monkeypatch.setattr(BatchMaker, "as_it_is", spy)
    tiny_run(tmp_path, "data.eval_batch_size=50")
    assert sorted(seen) == list(range(360))  # each once


RISING = ["regularizer.alpha_from=0.2", "regularizer.alpha_ramp=0.5", "regularizer.alpha_until=0.9", "alpha=0.1"]
METHODS = {
    "none": ["regularizer=none", "scheduler=cosine"],
    "gvr": ["regularizer=gvr", "regularizer.penalty.subset=8", "scheduler=onecycle"],
    "agr": ["regularizer=agr", "optimizer=adamw", "scheduler=cosine", "scheduler.interval=step"],
    "gvr_split": ["regularizer=gvr_split", "scheduler=warmup", "scheduler.warmup_steps=4"],
    "gvr_one_view": ["regularizer=gvr_one_view", "scheduler=onecycle", *RISING],
    "ddpm": [*TINY_DDPM, "extractor=none", "regularizer=gvr_agr", "optimizer=adan"],
    "ddpm_acprop": [*TINY_DDPM, "extractor=none", "regularizer=agr", "optimizer=acprop", "model.dropout=0.3"],
    "sam": ["regularizer=sam", "scheduler=cosine"],
    "consistency": ["regularizer=consistency", "optimizer=adam", "scheduler=onecycle"],
    "augmix": ["regularizer=augmix", "augmentation=augmix"],
    "label_smoothing": ["regularizer=label_smoothing", "label_noise=symmetric"],
    "gvr_published": ["regularizer=gvr_published", "model=resnet20", "model.widths=[4,8]", "model.blocks=1"],
}


STOPS = [(method, 4) for method in METHODS]  # the middle of an epoch; and its end (3, 6) and that of the run (9)
STOPS += [("gvr", 3), ("gvr", 6), ("gvr", 9), ("gvr_published", 6), ("ddpm", 3)]


@pytest.mark.parametrize(("method", "batches"), STOPS)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    method: str, batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Callable[..., Path]
) -> None:
    settings = [*METHODS[method], "epochs=3", "data.max_train=70"]
    cnn = method != "gvr_published"
    undisturbed = finished(*settings)
    whole = json.loads((undisturbed / "summary.json").read_text())
    with monkeypatch.context() as patch:
        stop_after(patch, batches, signal.SIGTERM)
        with pytest.raises(Interrupted) as stop:
            tiny_run(tmp_path / "cut", *settings, cnn=cnn)
    assert stop.value.signum == signal.SIGTERM
    halfway = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert halfway["status"] == "interrupted"
    assert (halfway["train"]["steps"], halfway["train"]["epochs"]) == (batches, batches // 3)
    resumed = tiny_run(tmp_path / "cut", *settings, f"resume={tmp_path / 'cut'}", cnn=cnn)
    found = weights(tmp_path / "cut")
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, found[name]), name
    timed = ("train/seconds",)
    rows = [
        [{k: v for k, v in row.items() if k not in timed} for row in read_metrics(run / "metrics.csv")]
        for run in (undisturbed, tmp_path / "cut")
    ]
    assert rows[0] == rows[1]
    for key in ("steps", "images", "samples", "epochs"):
        assert resumed["train"][key] == whole["train"][key]
    assert resumed["metrics"]["test/loss"] == whole["metrics"]["test/loss"]


def test_a_run_that_was_killed_loses_an_epoch_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill leaves rows that were logged after the last checkpoint: they are logged again, not twice."""
    settings = ["regularizer=gvr", "epochs=3", "trainer.log_every_n_steps=1"]
    tiny_run(tmp_path / "whole", *settings)
    with monkeypatch.context() as patch:
        patch.setattr("gvr_lightning.app.run.write_summary", lambda *_: None)
        patch.setattr(ViewsDataModule, "on_after_batch_transfer", _dies_at(5))
        with pytest.raises(MemoryError):
            tiny_run(tmp_path / "cut", *settings)
    tiny_run(tmp_path / "cut", *settings, f"resume={tmp_path / 'cut'}")
    cut = weights(tmp_path / "cut")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, cut[name]), name
    steps = [[r["step"] for r in read_metrics(tmp_path / run / "metrics.csv")] for run in ("whole", "cut")]
    assert steps[0] == steps[1]


def _dies_at(batches: int) -> Any:
    count = [0]
    original = ViewsDataModule.on_after_batch_transfer

    def dying(self: ViewsDataModule, batch: torch.Tensor, dataloader_idx: int) -> Any:
        count[0] += bool(self.trainer.training)  # type: ignore[union-attr]
        if count[0] == batches:
            raise MemoryError
        return original(self, batch, dataloader_idx)

    return dying


def test_resume_refuses_other_images(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "photos", size=(8, 8))
    settings = ["data=image_folder", f"data.root={tmp_path / 'photos'}", f"data.cache_dir={tmp_path / 'cache'}"]
    tiny_run(tmp_path / "run", *settings)
    next((tmp_path / "photos" / "train").rglob("*.*g")).unlink()
    with pytest.raises(UserError, match="content differs"):
        tiny_run(tmp_path / "run", *settings, f"resume={tmp_path / 'run'}", "epochs=3")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    finished = tiny_run(tmp_path, "regularizer=gvr")
    again = tiny_run(tmp_path, "regularizer=gvr", f"resume={tmp_path}")
    assert again["metrics"] == finished["metrics"] and again["train"] == finished["train"]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = torch.save, []

    def until_full(checkpoint: Any, path: Path) -> None:
        save(checkpoint, path)
        saved.append(path)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", until_full)
    with pytest.raises(TrainingError, match=r"last.ckpt: the disk is full; the one before is untouched"):
        tiny_run(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.tmp")] == []
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"


def test_a_loss_that_explodes_ends_the_run_with_a_summary(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite at step"):
        tiny_run(tmp_path, "lr=1e20")
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == "failed"


def test_without_a_validation_part_the_last_checkpoint_is_the_best(tmp_path: Path) -> None:
    summary = tiny_run(tmp_path, "data.val_fraction=0.0")
    assert not any(name.startswith("val/") for name in summary["metrics"])
    last, best = (torch.load(tmp_path / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("last", "best"))
    assert last["global_step"] == best["global_step"] == 6


def test_a_transform_of_ones_own_by_config(tmp_path: Path) -> None:
    summary = tiny_run(
        tmp_path,
        "regularizer=gvr",
        "data.transform={_target_: torchvision.transforms.v2.RandomCrop, size: 6}",
        "data.eval_transform={_target_: torchvision.transforms.v2.CenterCrop, size: 6}",
    )
    assert summary["status"] == "finished"


def test_models_that_do_not_fit_their_penalty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task: .*match none"):
        tiny_run(tmp_path, "regularizer=gvr", "regularizer.penalty.layers=[layer9.*]")
    with pytest.raises(UserError, match=r"model: timm has no model 'resnet1'"):
        tiny_run(tmp_path, "model=timm", "model.name=resnet1", cnn=False)
