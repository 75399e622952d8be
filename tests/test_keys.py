"""Every key arrives: a run with another value of it has other figures; and a key that does not change them is known."""

import csv
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from configured import configured
from runs import TINY_DDPM, tiny_run

from gvr_lightning.data.transforms.recipe import recipe

HERE = Path(__file__).parent
SGD = ["epochs=2"]
GVR = ["regularizer=gvr", "alpha=1"]
ROWS = ["regularizer=gvr", "alpha=1", "regularizer.penalty.subset=4"]
NORMALISED = ["regularizer=gvr_normalised", "alpha=1"]
STAGE = ["regularizer=gvr_last_stage", "alpha=1"]
SAM = ["regularizer=sam", "lr=0.1"]
CUT = ["data.augmentation.cutout=3", "data.augmentation.cutout_prob=0.5"]
ADAM, ADAMW, RMSPROP = (["epochs=2", f"optimizer={name}"] for name in ("adam", "adamw", "rmsprop"))
ADAN = ["optimizer=adan", "lr=0.01", "optimizer.weight_decay=0.5"]
ACPROP = ["optimizer=acprop", "lr=0.01", "optimizer.weight_decay=0.5", "epochs=3"]
RESNET = ["model=resnet20", "model.widths=[4,8]", "model.blocks=1"]
WIDE = ["model=wide_resnet", "model.depth=10", "model.widen=1"]
VIT = "img_size: 8, patch_size: 4, embed_dim: 8, depth: {}, num_heads: 2"
FURTHER = list(inspect.signature(recipe).parameters)[4:]  # than the plain augmentation has
TIMM = ["model=timm", "model.name=vit_tiny_patch16_224", f"model.options={{{VIT.format(1)}}}"]
WARM = ["scheduler=warmup", "scheduler.warmup_steps=4"]
FALLING = ["scheduler=multistep", "scheduler.milestones=[1]"]
OF_VIEWS = ("policy_severity", "weak_first", "same_crop")
NOISY = ["label_noise=asymmetric", "label_noise.map={3: 5, 1: 7}"]
DDPM = [*TINY_DDPM, "extractor=none", "lr=0.01", "data.max_train=64"]
LINEAR = [*DDPM, "task.noise.beta_schedule=linear", "task.noise.timesteps=100"]
BOTH = [*DDPM, "regularizer=two_view", "optimizer=sgd", "task.clip_norm=null"]  # Adam knows no scale
UNET = [*DDPM, "model.attention=[false,true]"]

# key: [(what both runs have, what one of them has), ...]
ARRIVE: dict[str, list[tuple[list[str], str]]] = {
    "seed": [(SGD, "seed=1")],
    "epochs": [(SGD, "epochs=3")],
    "batch_size": [(SGD, "batch_size=16")],
    "lr": [(SGD, "lr=0.03"), (ADAM, "lr=0.003")],
    "alpha": [(GVR, "alpha=2"), (["regularizer=consistency"], "alpha=2"), (["regularizer=gvr_published"], "alpha=2")],
    "model.width": [(SGD, "model.width=16")],
    "model.groups": [(SGD, "model.groups=2"), (UNET, "model.groups=2")],
    "model.widths": [(RESNET, "model.widths=[8,8]"), (DDPM, "model.widths=[8,16]")],
    "model.bottleneck": [(RESNET, "model.bottleneck=true")],
    "model.hidden": [(["model=vgg11", "model.width=2", "model.hidden=8"], "model.hidden=9")],
    "model.blocks": [(RESNET, "model.blocks=[1,2]"), (DDPM, "model.blocks=2")],
    "model.depth": [(WIDE, "model.depth=16")],
    "model.widen": [(WIDE, "model.widen=2")],
    "model.dropout": [(WIDE, "model.dropout=0.5"), (DDPM, "model.dropout=0.5")],
    "model.attention": [(DDPM, "model.attention=[false,true]")],
    "model.head_dim": [(UNET, "model.head_dim=2")],
    "model.name": [(TIMM, "model.name=deit3_small_patch16_224")],
    "model.options": [(TIMM, f"model.options={{{VIT.format(2)}}}")],
    "task.noise.timesteps": [(DDPM, "task.noise.timesteps=20")],
    "task.noise.beta_schedule": [(DDPM, "task.noise.beta_schedule=sigmoid")],
    "task.noise.scale_betas": [(LINEAR, "task.noise.scale_betas=true")],
    "task.noise.beta_range": [(LINEAR, "task.noise.beta_range=[0.001,0.03]")],
    "task.noise.prediction": [(DDPM, "task.noise.prediction=v")],
    "task.ema_decay": [(DDPM, "task.ema_decay=0.01"), (SGD, "task.ema_decay=0.5")],
    "task.ema_warmup": [(DDPM, "task.ema_warmup=false")],
    "task.views_loss": [(GVR, "task.views_loss=mean"), (BOTH, "task.views_loss=mean")],
    "task.clip_norm": [(SGD, "task.clip_norm=0.01"), (DDPM, "task.clip_norm=0.01")],
    "task.clip_value": [(SGD, "task.clip_value=0.0001")],
    "task.accumulate": [(GVR, "task.accumulate=2")],
    "task.label_smoothing": [(SGD, "task.label_smoothing=0.3")],
    "task.calibration_bins": [(SGD, "task.calibration_bins=2")],
    "data.mean": [(SGD, "data.mean=[0.1]")],
    "data.std": [(SGD, "data.std=[0.9]")],
    "data.augmentation.padding": [(SGD, "data.augmentation.padding=2")],
    "data.augmentation.flip": [(SGD, "data.augmentation.flip=true")],
    "data.augmentation.cutout": [(CUT, "data.augmentation.cutout=5")],
    "data.augmentation.cutout_prob": [(CUT, "data.augmentation.cutout_prob=1")],
    "data.val_fraction": [(SGD, "data.val_fraction=0.1")],
    "data.max_train": [(SGD, "data.max_train=70")],
    "data.subset_seed": [(SGD, "data.subset_seed=run")],
    "data.transform": [(SGD, "data.transform={_target_: torchvision.transforms.v2.CenterCrop, size: 6}")],
    "data.eval_transform": [(SGD, "data.eval_transform={_target_: torchvision.transforms.v2.CenterCrop, size: 6}")],
    "trainer.precision": [(SGD, "trainer.precision=bf16-mixed"), (SGD, "trainer.precision=64-true")],
    "trainer.log_every_n_steps": [(SGD, "trainer.log_every_n_steps=2")],
    "regularizer.views": [(SGD, "regularizer.views=2"), (GVR, "regularizer.views=3")],
    "regularizer.alpha_from": [(GVR, "regularizer.alpha_from=0.4")],
    "regularizer.alpha_until": [(GVR, "regularizer.alpha_until=0.5")],
    "regularizer.alpha_ramp": [(GVR, "regularizer.alpha_ramp=0.5")],
    "regularizer.penalty.layers": [(GVR, f"regularizer.penalty.layers={layers}") for layers in ("last_stage", "all")],
    "regularizer.penalty.subset": [(GVR, "regularizer.penalty.subset=4"), (STAGE, "regularizer.penalty.subset=4")],
    "regularizer.penalty.shared": [(ROWS, "regularizer.penalty.shared=true")],
    "regularizer.penalty.per_sample": [(GVR, "regularizer.penalty.per_sample=true")],
    "regularizer.penalty.whole_batch": [(NORMALISED, "regularizer.penalty.whole_batch=true")],
    "regularizer.penalty.eps": [(NORMALISED, "regularizer.penalty.eps=1")],
    "regularizer.penalty.detach": [(["regularizer=gvr_label_free", "alpha=1"], "regularizer.penalty.detach=true")],
    "regularizer.penalty.fisher": [(["regularizer=gvr_one_view", "alpha=1"], "regularizer.penalty.fisher=true")],
    "regularizer.penalty.q": [(["regularizer=gce"], "regularizer.penalty.q=0.3")],
    "regularizer.penalty.smoothing": [(["regularizer=label_smoothing"], "regularizer.penalty.smoothing=0.4")],
    "regularizer.wrap": [(SGD, "regularizer.wrap={_target_: gvr_lightning.AGR, _partial_: true}")],
    "regularizer.wrap.rho": [(SAM, "regularizer.wrap.rho=0.5"), (["regularizer=sam_agr"], "regularizer.wrap.rho=0.5")],
    "regularizer.wrap.granularity": [
        (["regularizer=agr"], "regularizer.wrap.granularity=row"),
        (["regularizer=gvr_agr"], "regularizer.wrap.granularity=row"),
        (["regularizer=sam_agr"], "regularizer.wrap.granularity=row"),
    ],
    "regularizer.wrap.adaptive": [(SAM, "regularizer.wrap.adaptive=true")],
    "optimizer.momentum": [(SGD, "optimizer.momentum=0.5"), (RMSPROP, "optimizer.momentum=0.5")],
    "optimizer.weight_decay": [
        (base, "optimizer.weight_decay=0.9") for base in (SGD, ACPROP)
    ],
    "optimizer.nesterov": [(SGD, "optimizer.nesterov=true")],
    "optimizer.betas": [
        *((base, "optimizer.betas=[0.5,0.7]") for base in (ADAMW, ACPROP)),
        (ADAN, "optimizer.betas=[0.5,0.6,0.7]"),
    ],
    "optimizer.eps": [
        (base, "optimizer.eps=0.1") for base in (RMSPROP, ADAN)
    ],
    "optimizer.no_prox": [(ADAN, "optimizer.no_prox=true")],
    "optimizer.decoupled": [(ACPROP, "optimizer.decoupled=false")],
    "optimizer.rectify": [(ACPROP, "optimizer.rectify=false")],
    "optimizer.degenerate_to_sgd": [(ACPROP, "optimizer.degenerate_to_sgd=false")],
    "optimizer.momentum_update": [(ACPROP, "optimizer.momentum_update=true")],
    "optimizer.alpha": [(RMSPROP, "optimizer.alpha=0.5")],
    "scheduler.cosine": [(WARM, "scheduler.cosine=true")],
    "scheduler.cosine_from": [([*WARM, "scheduler.cosine=true"], "scheduler.cosine_from=start")],
    "scheduler.milestones": [(FALLING, "scheduler.milestones=[0.5]")],
    "scheduler.gamma": [(FALLING, "scheduler.gamma=0.5")],
    "scheduler.warmup_steps": [(WARM, "scheduler.warmup_steps=6")],
    "scheduler.warmup_epochs": [(FALLING, "scheduler.warmup_epochs=1")],
    "scheduler.warmup_start": [(WARM, "scheduler.warmup_start=0.5")],
    "scheduler.warmup_fraction": [(["scheduler=onecycle"], "scheduler.warmup_fraction=0.9")],
    "scheduler.interval": [(SGD, "scheduler.interval=step")],
    "scheduler.min_lr": [(SGD, "scheduler.min_lr=0.015")],
    "label_noise.rate": [(["label_noise=symmetric"], "label_noise.rate=0.2")],
    "label_noise.seed": [(["label_noise=symmetric"], "label_noise.seed=1")],
    "label_noise.validation": [(["label_noise=symmetric"], "label_noise.validation=noisy")],
    "label_noise.map": [(NOISY, "label_noise.map={3: 6, 1: 7}")],
}  # fmt: skip

# Keys whose effect is no figure of training, or needs more than another value, by the file that tests them.
ELSEWHERE = {
    "test_faults.py": "resume checkpoint.every_n_steps checkpoint.every_n_minutes task.non_finite task.max_skipped"
    " trainer.devices trainer.num_nodes",
    "test_task.py": "task.compile task.channels_last",
    "test_compiled_loss.py": "task.cuda_graphs",
    "test_whole_runs.py": "test_on",
    "test_tested_epochs.py": "test_every_n_epochs",
    "test_checkpoints.py": "checkpoint.every_n_epochs checkpoint.in_background",
    "test_corruption.py": "data.corruption",
    "test_early_stopping.py": "early_stopping.patience early_stopping.monitor early_stopping.min_delta",
    "test_parameter_groups.py": "parameters.freeze parameters.lr_scale parameters.no_decay",
    "test_variance.py": "regularizer.penalty.split",
    "test_keys.py": "model.pretrained trainer.deterministic trainer.benchmark",
    "test_sources.py": "data.root data.download data.image_size data.channels data.cache_dir data.workers"
    " data.test_folder data.value_range data.skip_broken",
    "test_large_images.py": "data.keep data.crop_pct",
    "test_transform_workers.py": "data.transform_workers",
    "test_huggingface.py": "data.path data.subset data.revision data.train_split data.val_split data.test_split"
    " data.image_column data.label_column",
    "test_noise_file.py": "label_noise.path label_noise.labels",
    "test_transforms.py": " ".join(f"data.augmentation.{name}" for name in FURTHER if name not in OF_VIEWS),
    "test_augmix.py": " ".join(f"data.augmentation.{name}" for name in OF_VIEWS),
    "test_mixing.py": "mix.mixup mix.cutmix mix.prob mix.independent",
    "test_security.py": "trust",
    "test_launching.py": "trainer.timeout",
    "test_splits.py": "data.eval_batch_size data.on_device",
    "test_generation.py": "model.weights",
    "test_diffusion.py": "sampler.steps_offset sampler.set_alpha_to_one",
    "test_unet.py": "model.init",
    "test_generated_images.py": "generation.num_images generation.grid generation.splits generation.bf16"
    " generation.batch_size generation.every_n_epochs generation.score_every_n_epochs generation.allow_few"
    " generation.weights"
    " sampler.steps sampler.eta sampler.spacing sampler.clip_sample",
    "test_metrics.py": "extractor.cache_dir extractor.weights extractor.size extractor.resize",
    "test_score_caches.py": "extractor.checkpoint",
    "test_wandb.py": "logger.project logger.entity logger.mode logger.on_error logger.group logger.tags",
    "test_processes.py": "trainer.accelerator trainer.strategy trainer.sync_batchnorm",
    "test_presets.py": "trainer.tf32 trainer.fused",
    "test_recipes.py": "trainer.strategy.find_unused_parameters",
}


def figures(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without what a clock says."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "train/seconds"} for row in csv.DictReader(file)]


CASES = [(base, changed) for cases in ARRIVE.values() for base, changed in cases]


@pytest.mark.parametrize(("base", "changed"), CASES, ids=[f"{changed} of {' '.join(base)}" for base, changed in CASES])
def test_another_value_makes_another_run(base: list[str], changed: str, finished: Callable[..., Path]) -> None:
    one, other = figures(finished(*base)), figures(finished(*base, changed))
    assert one != other


def test_every_key_has_its_place() -> None:
    """Each is either in the table above or named in the file that is said to test it."""
    elsewhere = {key: file for file, keys in ELSEWHERE.items() for key in keys.split()}
    assert ARRIVE.keys() | elsewhere.keys() == configured().keys() and not ARRIVE.keys() & elsewhere.keys()
    for key, file in elsewhere.items():
        assert key.rpartition(".")[2] in (HERE / file).read_text(), (key, file)


def test_whether_weights_are_pretrained_reaches_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def without_a_network(name: str, pretrained: bool = False, **options: Any) -> Any:
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_a_network)
    for wanted in ("true", "false"):
        tiny_run(tmp_path / wanted, *TIMM, f"model.pretrained={wanted}", "epochs=1", cnn=False)
    assert asked == [("vit_tiny_patch16_224", True), ("vit_tiny_patch16_224", False)]


@pytest.fixture
def switches() -> Iterator[None]:
    """Of torch's, as they were."""
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.usefixtures("switches")
def test_deterministic_and_benchmark_reach_torch(tmp_path: Path) -> None:
    for wanted in (True, False):
        told = [f"trainer.deterministic={str(wanted).lower()}", f"trainer.benchmark={str(not wanted).lower()}"]
        tiny_run(tmp_path / str(wanted), *told, "epochs=1")
        assert torch.are_deterministic_algorithms_enabled() is wanted
        assert torch.backends.cudnn.benchmark is not wanted
