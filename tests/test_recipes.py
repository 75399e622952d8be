"""What each option of the configuration stands for, and the published recipes, value by value."""

from typing import Any

import pytest
from composed import composed_once  # noqa: F401 (a fixture)
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gvr_lightning.config.cpu import cpu_precision
from gvr_lightning.config.folder import conf_folder, group_options
from gvr_lightning.config.sweep import expand
from gvr_lightning.config.values import resolve

pytestmark = pytest.mark.usefixtures("composed_once")

Tree = dict[str, Any]

LR, ALPHA, EPOCHS, SEED = 0.3, 0.7, 5, 9  # given on the command line
GIVEN = [f"lr={LR}", f"alpha={ALPHA}", f"epochs={EPOCHS}", f"seed={SEED}", "name=x"]

NONE = {"is": "NoPenalty"}
GVR = {"is": "GradientVariance", "alpha": ALPHA, "layers": "head", "subset": None}
GVR |= {"shared": False, "per_sample": False, "split": False}
ALWAYS = {"alpha_from": None, "alpha_until": None, "alpha_ramp": None}  # of every regularizer
SAM = {"rho": 0.05, "adaptive": False}
UNET = {"is": "unet", "head_dim": None, "weights": None, "init": "default"}
ADAM = {"lr": LR, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
TRAINER = {"is": "Trainer", "max_epochs": EPOCHS, "accelerator": "auto", "devices": 1, "num_nodes": 1}
TRAINER |= {
    "strategy": "auto",
    "sync_batchnorm": False,
    "timeout": 600,
    "precision": "32-true",
    "log_every_n_steps": 50,
}
TRAINER |= {"deterministic": False, "benchmark": False, "tf32": None, "fused": False}
NOISE = {"rate": 0.4, "seed": 0, "validation": "clean"}
PUBLISHED_DDIM = {"is": "DDIM", "eta": 0.0, "spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
PUBLISHED_DDIM |= {"clip_sample": False}
TIMM = {"is": "timm_network", "pretrained": False, "weights": None}
NO_WARMUP = {"warmup_epochs": None, "warmup_fraction": None, "warmup_start": None}
WARMUP = {"warmup_steps": 200, **NO_WARMUP, "min_lr": 0.0, "cosine_from": "warmup"}
STEP = {"clip_value": None, "accumulate": 1, "non_finite": "stop", "max_skipped": 100, "compile": False}
STEP |= {"views_loss": "sum", "cuda_graphs": None}
DDPM_NOISE = {"is": "Noise", "timesteps": 1000, "beta_schedule": "cosine", "beta_range": [0.0001, 0.02]}
DDPM_NOISE |= {"prediction": "epsilon", "scale_betas": False}
PLAIN_DATA = {"max_train": None, "transform": None, "eval_transform": None, "eval_batch_size": 500, "on_device": True}
PLAIN_DATA |= {"transform_workers": None, "val_fraction": 0.1, "subset_seed": None, "corruption": None}
AUGMENTED = {"is": "Augmentation", "padding": 4, "flip": True, "cutout": 16, "cutout_prob": 0.5}
SHIFTED = {"is": "Augmentation", "padding": 1, "flip": False, "cutout": 0, "cutout_prob": 0.0}
UNCHANGED: Tree = {"is": "recipe", "padding": 0, "flip": False, "cutout": 0, "cutout_prob": 0.0, "crop_scale": None}
UNCHANGED |= {"crop_ratio": [3 / 4, 4 / 3], "degrees": 0.0, "policy": None, "policy_ops": 2, "policy_magnitude": 9}
UNCHANGED |= {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "jitter_prob": 1.0, "grey_prob": 0.0}
UNCHANGED |= {"blur_prob": 0.0, "blur_sigma": [0.1, 2.0], "blur_radius": 1}
UNCHANGED |= {"erase_prob": 0.0, "erase_scale": [0.02, 0.33], "erase_ratio": [0.3, 3.3]}
UNCHANGED |= {"policy_severity": 3, "weak_first": False, "same_crop": False}
PRESETS: dict[str, Tree] = {
    "none": {},
    "cifar": {key: value for key, value in AUGMENTED.items() if key != "is"},
    "imagenet": {"flip": True, "crop_scale": [0.08, 1.0]},
    "trivial": {"padding": 4, "flip": True, "policy": "trivial"},
    "augmix": {"padding": 4, "flip": True, "policy": "augmix", "weak_first": True, "same_crop": True},
}
CIFAR = {"root": "data", "download": True, "augmentation": AUGMENTED, **PLAIN_DATA}
FOLDER = {"root": "photos", "image_size": None, "channels": 3, "cache_dir": None, "workers": None}
FOLDER |= {"test_folder": None, "value_range": None, "skip_broken": False, "keep": "auto", "crop_pct": 1.0}
HUB = {name: value for name, value in FOLDER.items() if name not in ("root", "test_folder")} | {"path": "photos"}
HUB |= dict.fromkeys(("subset", "revision", "train_split", "val_split", "test_split", "image_column", "label_column"))

# group -> option -> all its values, but for hydra's own
TENSOR = {"is": "AGR", "granularity": "tensor", "compile": False}
MEANT: dict[str, dict[str, Any]] = {
    "data": {
        "digits": {"source": {"is": "Digits"}, "augmentation": SHIFTED, "mean": None, "std": None, **PLAIN_DATA},
        "mnist_5k": {
            "source": {"is": "Mnist5k"},
            "augmentation": {**SHIFTED, "padding": 2},
            "mean": None,
            "std": None,
            **PLAIN_DATA,
        },
        "cifar10": {
            "source": {"is": "Cifar10", "root": "data", "download": True},
            "mean": [0.4914, 0.4822, 0.4465],
            "std": [0.2023, 0.1994, 0.2010],
            **CIFAR,
        },
        "cifar100": {
            "source": {"is": "Cifar100", "root": "data", "download": True},
            "mean": [0.5071, 0.4867, 0.4408],
            "std": [0.2675, 0.2565, 0.2761],
            **CIFAR,
        },
        "image_folder": {
            "source": {"is": "ImageFolder", **FOLDER},
            "augmentation": AUGMENTED,
            "mean": None,
            "std": None,
            **FOLDER,
            **PLAIN_DATA,
        },
        "huggingface": {
            "source": {"is": "HuggingFace", **HUB},
            "augmentation": AUGMENTED,
            "mean": None,
            "std": None,
            **HUB,
            **PLAIN_DATA,
        },
    },
    "label_noise": {
        "none": None,
        "symmetric": {"is": "Symmetric", **NOISE},
        "symmetric_inclusive": {"is": "SymmetricInclusive", **NOISE},
        "pairflip": {"is": "PairFlip", **NOISE},
        "asymmetric": {"is": "Asymmetric", "map": None, **NOISE},
        "file": {"is": "FromFile", "path": "noise.pt", "labels": None, "validation": "clean"},
    },
    "mix": {
        "none": None,
        "mixup": {"is": "Mixing", "mixup": 0.2, "cutmix": 0.0, "prob": 1.0, "independent": False},
        "cutmix": {"is": "Mixing", "mixup": 0.0, "cutmix": 1.0, "prob": 1.0, "independent": False},
        "both": {"is": "Mixing", "mixup": 0.2, "cutmix": 1.0, "prob": 1.0, "independent": False},
    },
    "model": {
        "small_cnn": {"is": "small_cnn", "width": 32, "groups": 8},
        "resnet18": {"is": "resnet", "widths": [64, 128, 256, 512], "blocks": 2, "bottleneck": False},
        "resnet20": {"is": "resnet", "widths": [16, 32, 64], "blocks": 3, "bottleneck": False},
        "resnet34": {"is": "resnet", "widths": [64, 128, 256, 512], "blocks": [3, 4, 6, 3], "bottleneck": False},
        "resnet50": {"is": "resnet", "widths": [64, 128, 256, 512], "blocks": [3, 4, 6, 3], "bottleneck": True},
        "vgg11": {"is": "vgg11", "width": 64, "hidden": 4096, "dropout": 0.5},
        "vit_tiny_32": {**TIMM, "name": "vit_tiny_patch16_224", "options": {"img_size": 32, "patch_size": 4}},
        "swin_tiny_32": {
            **TIMM,
            "name": "swin_tiny_patch4_window7_224",
            "options": {"img_size": 32, "patch_size": 2, "window_size": 4},
        },
        "convnext_32": {**TIMM, "name": "convnext_tiny", "options": {"patch_size": 1}},
        "wide_resnet": {"is": "wide_resnet", "depth": 28, "widen": 10, "dropout": 0.0},
        "timm": {**TIMM, "name": "resnet18", "options": None},
        "unet_small": {
            **UNET,
            "widths": [32, 32],
            "blocks": 1,
            "attention": [False, True],
            "dropout": 0.0,
            "groups": 8,
        },
        "unet_cifar10_small": {
            **UNET,
            "widths": [32, 64, 96],
            "blocks": 1,
            "attention": [False, False, True],
            "dropout": 0.0,
            "groups": 8,
        },
        "unet_cifar10": {
            **UNET,
            "widths": [128, 256, 256, 256],
            "blocks": 2,
            "attention": [False, True, False, False],
            "dropout": 0.1,
            "groups": 32,
        },
    },
    "regularizer": {
        "none": {"views": 1, "penalty": NONE, "wrap": None},
        "two_view": {"views": 2, "penalty": NONE, "wrap": None},
        "gvr": {"views": 2, "penalty": GVR, "wrap": None},
        "gvr_split": {"views": 1, "penalty": {**GVR, "split": True}, "wrap": None},
        "gvr_per_sample": {"views": 2, "penalty": {**GVR, "per_sample": True}, "wrap": None},
        "gvr_normalised": {
            "views": 2,
            "penalty": {"is": "NormalisedGradientVariance", "alpha": ALPHA, "whole_batch": False, "eps": 1e-8},
            "wrap": None,
        },
        "gvr_label_free": {
            "views": 2,
            "penalty": {"is": "LabelFreeGradientVariance", "alpha": ALPHA, "detach": False},
            "wrap": None,
        },
        "gvr_one_view": {
            "views": 1,
            "penalty": {"is": "OneViewGradientVariance", "alpha": ALPHA, "fisher": False},
            "wrap": None,
        },
        "feature_norm": {"views": 1, "penalty": {"is": "FeatureNorm", "alpha": ALPHA}, "wrap": None},
        "gvr_last_stage": {
            "views": 2,
            "penalty": {**GVR, "layers": "last_stage", "subset": 32, "shared": True},
            "wrap": None,
        },
        "gvr_published": {
            "views": 2,
            "penalty": {"is": "PublishedGradientVariance", "alpha": ALPHA, "subset": 32},
            "wrap": None,
        },
        "consistency": {"views": 2, "penalty": {"is": "Consistency", "alpha": ALPHA}, "wrap": None},
        "consistency_target": {
            "views": 2,
            "penalty": {"is": "Consistency", "alpha": ALPHA, "detach": True},
            "wrap": None,
        },
        "augmix": {"views": 3, "penalty": {"is": "JensenShannon", "alpha": ALPHA}, "wrap": None},
        "gce": {"views": 1, "penalty": {"is": "GeneralisedCrossEntropy", "q": 0.7}, "wrap": None},
        "label_smoothing": {"views": 1, "penalty": {"is": "LabelSmoothing", "smoothing": 0.1}, "wrap": None},
        "agr": {"views": 1, "penalty": NONE, "wrap": TENSOR},
        "gvr_agr": {"views": 2, "penalty": GVR, "wrap": TENSOR},
        "sam": {"views": 1, "penalty": NONE, "wrap": {"is": "SAM", **SAM}},
        "sam_agr": {"views": 1, "penalty": NONE, "wrap": {**TENSOR, "is": "sam_agr", **SAM}},
    },
    "optimizer": {
        "sgd": {"is": "SGD", "lr": LR, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False},
        "adam": {"is": "Adam", **ADAM},
        "adamw": {"is": "AdamW", **ADAM, "weight_decay": 0.01},
        "adan": {"is": "Adan", **ADAM, "betas": [0.98, 0.92, 0.99], "no_prox": False},
        "rmsprop": {"is": "RMSprop", "lr": LR, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "weight_decay": 0.0},
        "acprop": {
            "is": "ACProp",
            **ADAM,
            "eps": 1e-16,
            "decoupled": True,
            "rectify": True,
            "degenerate_to_sgd": True,
            "momentum_update": False,
        },
    },
    "scheduler": {
        "constant": {"is": "constant"},
        "cosine": {"is": "cosine", "interval": "epoch", "min_lr": 0.0},
        "onecycle": {"is": "onecycle", "warmup_fraction": 0.3},
        "multistep": {"is": "multistep", "milestones": [60, 120, 160], "gamma": 0.2, "warmup_steps": None, **NO_WARMUP},
        "warmup": {"is": "warmup", **WARMUP, "cosine": False},
        "warmup_cosine": {"is": "warmup", **WARMUP, "cosine": True},
    },
    "trainer": {
        "default": TRAINER,
        "cpu": {**TRAINER, "accelerator": "cpu", "precision": cpu_precision()},
        "gpu": {
            **TRAINER,
            "accelerator": "gpu",
            "precision": "bf16-mixed",
            "tf32": "all",
            "fused": True,
            "benchmark": True,
        },
        "exact": {**TRAINER, "deterministic": True, "tf32": "none"},
        "ddp": {
            **TRAINER,
            "devices": "auto",
            "strategy": {"is": "DataParallel", "find_unused_parameters": False},
        },
        "fsdp": {**TRAINER, "devices": "auto", "strategy": {"is": "FullySharded"}},
    },
    "logger": {
        "csv": {"is": "csv"},
        "tensorboard": {"is": "tensorboard"},
        "wandb": {
            "is": "weights_and_biases",
            "project": "gvr_lightning",
            "entity": None,
            "mode": None,
            "on_error": "offline",
            "group": None,
            "tags": [],
        },
    },
    "task": {
        "classification": {
            "ema_decay": 0.0,
            "ema_warmup": True,
            "is": "ClassificationTask",
            "label_smoothing": 0.0,
            "calibration_bins": 15,
            "clip_norm": None,
            **STEP,
            "channels_last": False,
        },
        "ddpm": {
            "is": "DiffusionTask",
            "noise": DDPM_NOISE,
            "ema_decay": 0.999,
            "ema_warmup": True,
            "clip_norm": 1.0,
            **STEP,
            "channels_last": True,
        },
    },
    "sampler": {
        "ddim": {"is": "DDIM", "steps": 50, "eta": 0.0, "spacing": "trailing", "clip_sample": True},
        "ddim_published": {**PUBLISHED_DDIM, "steps": 100},
        "ddpm": {"is": "DDPM", "steps": None, "spacing": "linspace", "clip_sample": True},
        "unipc": {"is": "UniPCMultistepScheduler", "steps": 20, "spacing": "trailing", "clip_sample": True},
        "dpmpp": {"is": "DPMSolverMultistepScheduler", "steps": 20, "spacing": "trailing", "clip_sample": True},
        "euler": {"is": "EulerDiscreteScheduler", "steps": 50, "spacing": "trailing", "clip_sample": True},
        "euler_ancestral": {
            "is": "EulerAncestralDiscreteScheduler",
            "steps": 50,
            "spacing": "trailing",
            "clip_sample": True,
        },
    },
    "extractor": {
        "none": None,
        "auto": {"is": "auto", "cache_dir": None},
        "classifier": {"is": "classifier", "checkpoint": None, "cache_dir": None, "trust": None},
        "inception": {"is": "inception", "weights": None, "cache_dir": None, "resize": "tensorflow"},
        "inception_pytorch_fid": {"is": "inception", "weights": None, "cache_dir": None, "resize": "pytorch_fid"},
        "efficientnet": {"is": "efficientnet", "size": 128},
    },
}
MEANT["regularizer"] = {name: meant | ALWAYS for name, meant in MEANT["regularizer"].items()}
GENERATION = {"num_images": 360, "grid": 64, "every_n_epochs": 50, "score_every_n_epochs": 0, "batch_size": 500}
GENERATION |= {"bf16": False, "splits": 10, "allow_few": False, "weights": "average"}
OWN_LR = {"sgd": 0.02, "adam": 0.001, "adamw": 0.001, "adan": 0.001, "rmsprop": 0.001, "acprop": 0.001}


def composed(*overrides: str) -> tuple[Tree, Tree]:
    """The resolved configuration, targets by their last name; and which option each group has."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        tree: Any = OmegaConf.to_container(compose("config", list(overrides), return_hydra_config=True), resolve=False)
    chosen = tree.pop("hydra")["runtime"]["choices"]
    return _named(resolve(tree)), {group: option for group, option in chosen.items() if "/" not in group}


def _named(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {key: _named(inner) for key, inner in value.items() if key not in ("_target_", "_partial_")}
    return {"is": value["_target_"].rpartition(".")[2], **kept} if "_target_" in value else kept


def lines() -> list[tuple[str, ...]]:
    """As few as have every option."""
    of_task = {
        "classification": [g for g in MEANT if g not in ("task", "sampler", "extractor")],
        "ddpm": ["sampler", "extractor", "model"],
    }
    found = []
    for task, groups in of_task.items():
        fitting = {g: [o for o in MEANT[g] if g != "model" or ("unet" in o) == (task == "ddpm")] for g in groups}
        found += [
            (f"task={task}", *(f"{group}={options[i % len(options)]}" for group, options in fitting.items()))
            for i in range(max(map(len, fitting.values())))
        ]
    return found


@pytest.mark.parametrize("line", lines(), ids=" ".join)
def test_an_option_stands_for_these_values(line: tuple[str, ...]) -> None:
    photos = ["data.root=photos"] if "data=image_folder" in line else []
    photos += ["data.path=photos"] if "data=huggingface" in line else []
    photos += ["label_noise.path=noise.pt"] if "label_noise=file" in line else []
    tree, _ = composed(*line, *GIVEN, *photos)
    for group, option in (text.split("=") for text in line):
        found = tree[group]
        if option == "wandb":  # what only a job knows
            found = {key: value for key, value in found.items() if key not in ("job_type", "sweep")}
        if group == "data" and "task=ddpm" in line:
            continue
        fast = {"channels_last": True} if group == "task" and {"trainer=cpu", "trainer=gpu"} & set(line) else {}
        assert found == (MEANT[group][option] | fast if fast else MEANT[group][option]), (group, option)
    assert [tree[key] for key in ("lr", "alpha", "epochs", "seed")] == [LR, ALPHA, EPOCHS, SEED]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("line", [["data=cifar10"], ["task=ddpm"]], ids=str)
def test_a_preset_takes_the_place_of_a_data_set_s_augmentation(line: list[str], name: str) -> None:
    tree, _ = composed(*line, f"augmentation={name}", "data.augmentation.degrees=3")
    plain, _ = composed(*line)
    assert tree["data"].pop("augmentation") == UNCHANGED | PRESETS[name] | {"degrees": 3}
    plain["data"].pop("augmentation")
    assert tree == plain | {"name": tree["name"]}


@pytest.mark.parametrize("option", ["agr", "gvr_agr", "sam_agr"])
def test_the_task_s_compile_is_the_optimizer_s(option: str) -> None:
    tree, _ = composed(f"regularizer={option}", "task.compile=true")
    assert tree["regularizer"]["wrap"]["compile"] is True
    tree, _ = composed(f"regularizer={option}", "task.compile=true", "regularizer.wrap.compile=false")
    assert tree["regularizer"]["wrap"]["compile"] is False


def test_every_option_is_in_the_table() -> None:
    options = {group: sorted(options) for group, options in group_options().items()}
    assert {group: sorted(meant) for group, meant in MEANT.items()} == {
        group: those for group, those in options.items() if group not in ("experiment", "sweep", "augmentation")
    }
    assert sorted(PRESETS) == options["augmentation"]
    for name, lr in OWN_LR.items():
        assert OmegaConf.load(conf_folder() / "optimizer" / f"{name}.yaml").lr == lr
    assert sorted(OWN_LR) == options["optimizer"]


def test_the_default_run() -> None:
    tree, chosen = composed("name=x")
    assert {group: option for group, option in chosen.items() if option is not None} == {
        "data": "digits",
        "label_noise": "none",
        "mix": "none",
        "model": "small_cnn",
        "regularizer": "none",
        "optimizer": "sgd",
        "scheduler": "cosine",
        "trainer": "default",
        "logger": "csv",
        "task": "classification",
    }
    top = {key: value for key, value in tree.items() if key not in chosen}
    assert top == {
        "name": "x",
        "seed": 0,
        "epochs": 30,
        "batch_size": 128,
        "lr": 0.02,
        "alpha": 0.01,
        "resume": None,
        "trust": None,
        "test_on": "last",
        "test_every_n_epochs": None,
        "checkpoint": {"every_n_epochs": 1, "every_n_steps": None, "every_n_minutes": 30, "in_background": None},
        "early_stopping": {"patience": None, "monitor": None, "min_delta": 0.0},
        "parameters": {"freeze": None, "lr_scale": None, "no_decay": None},
    }


def test_the_default_diffusion_run() -> None:
    tree, chosen = composed("task=ddpm", "name=x")
    groups = ("model", "regularizer", "optimizer", "scheduler", "sampler", "extractor")
    assert [chosen[group] for group in groups] == ["unet_small", "none", "adam", "warmup_cosine", "ddim", "auto"]
    assert [tree[key] for key in ("epochs", "batch_size", "lr")] == [120, 64, 0.004]
    assert tree["generation"] == GENERATION
    assert tree["data"] == {
        **MEANT["data"]["digits"],
        "mean": [0.5],
        "std": [0.5],
        "augmentation": {**SHIFTED, "padding": 0},
    }


def published(data: str, regularizer: str, noise: bool) -> tuple[Tree, Tree]:
    """ResNet-18, 200 epochs: the options and the values of a row."""
    options = {"data": data, "model": "resnet18", "regularizer": regularizer, "optimizer": "sgd"}
    options |= {"scheduler": "cosine", "label_noise": "symmetric" if noise else "none", "task": "classification"}
    values = {"seed": 42, "epochs": 200, "batch_size": 128, "lr": 0.05, "alpha": 0.01, "optimizer.lr": 0.05}
    values |= {"optimizer.momentum": 0.9, "optimizer.weight_decay": 5e-4, "optimizer.nesterov": False}
    values |= {"scheduler.interval": "epoch", "scheduler.min_lr": 0.0, "trainer.max_epochs": 200}
    values |= {"model": MEANT["model"]["resnet18"], "data.augmentation": AUGMENTED, "data.max_train": None}
    values |= {"data.val_fraction": 0.1 if noise else 0.0, "trainer.precision": "32-true", "test_on": "last"}
    values |= {f"data.{key}": MEANT["data"][data][key] for key in ("mean", "std")}
    values |= {"label_noise": {"is": "Symmetric", **NOISE} if noise else None}
    values |= {"task": MEANT["task"]["classification"]}
    if regularizer == "gvr_published":
        penalty = {"is": "PublishedGradientVariance", "alpha": 0.01, "subset": 32}
        values |= {"regularizer": {"views": 2, "penalty": penalty, "wrap": None, **ALWAYS}}
    else:
        values |= {"regularizer": MEANT["regularizer"][regularizer]}
    return options, values


def ddpm(optimizer: str, regularizer: str) -> tuple[Tree, Tree]:
    """DDPM on CIFAR-10, 2,000 epochs."""
    options = {"data": "cifar10", "model": "unet_cifar10", "regularizer": regularizer, "optimizer": optimizer}
    options |= {
        "scheduler": "warmup",
        "sampler": "ddim_published",
        "extractor": "inception_pytorch_fid",
        "task": "ddpm",
    }
    values = {"seed": 42, "epochs": 2000, "batch_size": 128, "lr": 0.0002, "trainer.max_epochs": 2000}
    values |= {"optimizer": {**MEANT["optimizer"][optimizer], "lr": 0.0002}}
    values |= {"model": {**MEANT["model"]["unet_cifar10"], "init": "published"}, "extractor.resize": "pytorch_fid"}
    values |= {"regularizer": MEANT["regularizer"][regularizer]}
    values |= {"scheduler": {"is": "warmup", **WARMUP, "cosine": False, "warmup_start": 0.0}}
    values |= {"task.noise": {**DDPM_NOISE, "beta_schedule": "linear"}, "task.ema_decay": 0.9999}
    values |= {"task.ema_warmup": False, "task.clip_norm": 1.0, "data.val_fraction": 0.0, "data.max_train": None}
    values |= {"data.mean": [0.5], "data.std": [0.5]}
    values |= {"data.augmentation": {**AUGMENTED, "padding": 0, "cutout": 0, "cutout_prob": 0.0}}
    values |= {"sampler": {**PUBLISHED_DDIM, "steps": 100}}
    published = {"num_images": 50_000, "every_n_epochs": 200, "batch_size": 500, "weights": "raw"}
    published |= {"score_every_n_epochs": [10, 400, 800, 1200, 1600]}
    return options, values | {"generation": {**GENERATION, **published}}


SMALL_FOLDER = {**FOLDER, "root": "data/cifar10-jpeg", "image_size": 16}
SMALL: Tree = {
    "seed": 3,
    "epochs": 20,
    "batch_size": 64,
    "lr": 0.05,
    "optimizer.lr": 0.05,
    "task.channels_last": True,
    "model": {"is": "resnet", "widths": [32, 64, 128], "blocks": 1, "bottleneck": False},
    "data.source": {"is": "ImageFolder", **SMALL_FOLDER},
    "data.max_train": 2000,
    "data.val_fraction": 0.1,
    "data.augmentation": {**AUGMENTED, "padding": 2, "cutout": 0},
    "regularizer": MEANT["regularizer"]["none"],
    "trainer.precision": "bf16-mixed",
    "trainer.check_val_every_n_epoch": 4,
}
SMALL_OPTIONS = {"data": "image_folder", "model": "resnet20", "optimizer": "sgd", "scheduler": "cosine"}
RECIPES: dict[str, tuple[Tree, Tree]] = {
    **{
        f"{row}_{data}{'_noise' * noise}": published(data, regularizer, noise)
        for row, regularizer in (("sgd", "none"), ("two_view", "two_view"), ("gvr", "gvr_published"))
        for data in ("cifar10", "cifar100")
        for noise in (False, True)
    },
    **{f"ddpm_cifar10_{name}": ddpm(name, "none") for name in ("acprop", "rmsprop", "adam", "adamw", "adan")},
    "agr_ddpm_cifar10": ddpm("adan", "agr"),
    **{  # their values are in tests/test_published_recipes.py
        f"agr_{name}_cifar100": (
            {"data": "cifar100", "model": name, "regularizer": "agr", "optimizer": "adamw", "scheduler": "multistep"},
            {"regularizer": MEANT["regularizer"]["agr"], "label_noise": None, "task": MEANT["task"]["classification"]},
        )
        for name in ("resnet18", "vgg11")
    },
    **{
        f"agr_{name}_tiny_imagenet": (
            {"data": "image_folder", "model": "timm", "regularizer": "agr", "optimizer": "adamw"},
            {"regularizer": MEANT["regularizer"]["agr"], "label_noise": None, "data.augmentation.flip": True},
        )
        for name in ("tinyvit", "swin", "convnext")
    },
    "agr_ddpm_digits": (
        {
            "data": "digits",
            "model": "unet_small",
            "regularizer": "agr",
            "optimizer": "adan",
            "scheduler": "warmup_cosine",
        },
        {
            "seed": 0,
            "epochs": 60,
            "batch_size": 64,
            "lr": 0.004,
            "optimizer.lr": 0.004,
            "generation": {**GENERATION, "num_images": 1000, "every_n_epochs": 0},
        },
    ),
    "gvr_cifar10_small": ({**SMALL_OPTIONS, "label_noise": "none"}, {**SMALL, "label_noise": None}),
    "gvr_cifar10_small_noise": (
        {**SMALL_OPTIONS, "label_noise": "symmetric"},
        {**SMALL, "label_noise": {"is": "Symmetric", **NOISE, "seed": 3}},
    ),
}


@pytest.mark.parametrize("name", group_options()["experiment"])
def test_a_recipe_is_as_published(name: str) -> None:
    options, values = RECIPES[name]
    tree, chosen = composed(f"experiment={name}", *(["seed=3"] if "small" in name else []))
    assert {group: chosen[group] for group in options} == options
    for key, value in values.items():
        found = tree
        for part in key.split("."):
            found = found[part]
        assert found == value, key
    assert tree["name"] == name if "ddpm_cifar10" not in name else "experiment" in tree["name"]


@pytest.mark.parametrize(
    ("name", "swept"),
    {
        "alpha": ["name=alpha", "regularizer=gvr", "alpha=0,0.01,0.03,0.1,0.3,1,3,10,30,100", "seed=0,1,2"],
        "optimizers": [
            *("name=optimizers", "optimizer=sgd,adam,adamw,rmsprop,adan,acprop", "regularizer=none,agr", "seed=0,1,2")
        ],
        "quick": ["name=quick", "regularizer=none,two_view,gvr,sam,agr", "seed=0,1,2"],
        "seeds": ["name=seeds", "seed=0,1,2,3,4"],
        "variants": [
            "name=variants",
            "regularizer=none,two_view,consistency,gvr,gvr_last_stage,gvr_published,gvr_split,gvr_per_sample",
            "seed=0,1,2",
        ],
    }.items(),
)
def test_a_ready_sweep_is_over(name: str, swept: list[str]) -> None:
    assert expand([f"+sweep={name}"]) == ["-m", *swept]
