"""What earlier configurations and checkpoints say, as it is said now: names of ``_target_``s, and settings of later."""

from typing import Any

MODULES = {
    "gvr_lightning.consistency": "gvr_lightning.methods.consistency",
    "gvr_lightning.label_smoothing": "gvr_lightning.methods.label_smoothing",
    "gvr_lightning.loggers": "gvr_lightning.recording.csv",
    "gvr_lightning.optim.agr": "gvr_lightning.methods.agr",
    "gvr_lightning.optim.sam": "gvr_lightning.methods.sam",
    "gvr_lightning.penalty": "gvr_lightning.methods.penalty",
    "gvr_lightning.regularizers": "gvr_lightning.methods.gvr.penalty",
}
LATER: dict[str, dict[str, Any]] = {  # settings that a target did not have, with what it did
    "gvr_lightning.methods.agr.AGR": {"granularity": "tensor", "compile": False},
    "gvr_lightning.data.image_folder.ImageFolder": {"skip_broken": False, "keep": "auto", "crop_pct": 1.0},
    "gvr_lightning.data.huggingface.HuggingFace": {"keep": "auto", "crop_pct": 1.0},
    "gvr_lightning.methods.sam.sam_agr": {"granularity": "tensor", "compile": False},
    "gvr_lightning.tasks.classification.ClassificationTask": {
        "ema_decay": 0.0,
        "ema_warmup": True,
        "views_loss": "sum",
    },
    "gvr_lightning.tasks.diffusion.DiffusionTask": {"views_loss": "sum"},
    **{
        f"gvr_lightning.data.{name}": {"validation": "clean"}
        for name in (
            *("label_noise.Symmetric", "label_noise.SymmetricInclusive", "label_noise.PairFlip"),
            *("label_noise.Asymmetric", "noise_file.FromFile"),
        )
    },
    "gvr_lightning.data.transforms.recipe.recipe": {"policy_severity": 3, "weak_first": False, "same_crop": False},
    "gvr_lightning.diffusion.noise.Noise": {"scale_betas": False},
    "gvr_lightning.metrics.inception.inception": {"resize": "tensorflow"},
    "gvr_lightning.models.timm_network.timm_network": {"weights": None},
    "gvr_lightning.models.resnet.resnet": {"bottleneck": False},
    "gvr_lightning.models.unet.unet": {"init": "default"},
    "gvr_lightning.optim.schedules.warmup": {
        **dict.fromkeys(("warmup_epochs", "warmup_fraction", "warmup_start")),
        "min_lr": 0.0,
        "cosine_from": "warmup",
    },
}


def current(node: Any) -> Any:
    """A configuration's node, of plain containers, with every ``_target_`` by its present name and all its settings."""
    if isinstance(node, list):
        return [current(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    now = {key: _name(inner) if key == "_target_" else current(inner) for key, inner in node.items()}
    return now | {key: value for key, value in LATER.get(str(now.get("_target_")), {}).items() if key not in now}


def _name(target: Any) -> Any:
    module, _, name = str(target).rpartition(".")
    return f"{MODULES[module]}.{name}" if module in MODULES else target
