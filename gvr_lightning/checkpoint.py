"""Checkpoints read as plain data, and the networks that they hold: nothing that they name is called but networks."""

import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.moved import current
from gvr_lightning.config.trust import require_own
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import make

EMA = "ema.module."  # before the names of averaged weights
# Of a model's settings: where its first weights came from, which a checkpoint's replace; these may be files.
STARTS = ("pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as plain containers and tensors, on the CPU.

    Raises:
        UserError: for a file that is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # against the checksums: torch does not look at them
        if damaged is not None:
            raise ValueError(damaged)
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint
    except Exception as error:  # torch raises whatever its unpickler met
        raise UserError(f"checkpoint {path} is damaged ({type(error).__name__}); use another one") from error


@dataclass
class Loaded:
    """A network from a checkpoint, in evaluation mode, and what it was trained on."""

    network: nn.Module
    kind: str  # classification or ddpm
    config: dict[str, Any]
    image_shape: tuple[int, ...]
    mean: Tensor  # of each channel in [0, 1], as the network's images were normalised
    std: Tensor
    classes: tuple[str, ...] = ()
    source_shape: tuple[int, ...] = ()  # of the data set's images, before a transform that changes it
    value_range: tuple[float, float] | None = None  # of images of more than 8 bits
    epoch: int = 0  # that it was saved in, counted from 1
    crop_pct: float = 1.0  # share of a resized image's sides that the centre crop keeps


def load_network(path: Path, weights: str = "ema", trust: Collection[str] = ()) -> Loaded:
    """The network of one of this project's checkpoints, wherever it lies: a checkpoint holds its configuration.

    Args:
        path: of the .ckpt.
        weights: "ema", the moving average where there is one, or "raw".
        trust: dotted names of networks of others that it may name.

    Raises:
        UserError: for a file that is no such checkpoint, or names a network that is neither ours nor trusted.
    """
    checkpoint = load_checkpoint(Path(path))
    try:
        config, state, data = (checkpoint[name] for name in ("config", "state_dict", "ViewsDataModule"))
        config, shape = current(config), tuple(map(int, data["image_shape"]))
        settings, task, num_classes = _without_starts(config["model"]), config["task"], int(data["num_classes"])
        mean, std = (torch.as_tensor(data[name], dtype=torch.float32) for name in ("mean", "std"))
        classes = tuple(map(str, data.get("classes") or range(num_classes)))
        source_shape = tuple(map(int, data.get("source_shape") or shape))
        deep = _pair(data.get("value_range"))
        epoch = int(checkpoint.get("epoch", -1)) + 1
        crop_pct = float((config.get("data") or {}).get("crop_pct", 1))
        averaged = any(name.startswith(EMA) for name in state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"checkpoint {path} is not one of this project's runs: it holds no configuration of one"
        ) from error
    node = require_own(settings, "model", f"checkpoint {path}", "model", trust)
    network = make(node, f"checkpoint {path}: model", wanted=nn.Module, image_shape=shape, num_classes=num_classes)
    prefix = EMA if averaged and weights == "ema" else "model."
    try:
        network.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
    except (RuntimeError, TypeError) as error:
        raise UserError(f"checkpoint {path}: its weights are not those of its model") from error
    kind = declared(task, "kind", "ddpm" if averaged else "classification")
    return Loaded(network.eval(), kind, config, shape, mean, std, classes, source_shape, deep, epoch, crop_pct)


def _without_starts(settings: dict[str, Any]) -> dict[str, Any]:
    inner = {key: None if key in STARTS else value for key, value in settings.items()}
    return {key: _without_starts(value) if isinstance(value, dict) else value for key, value in inner.items()}


def _pair(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    low, high = map(float, value)
    return low, high
