"""Objects from a configuration's nodes, and networks from checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from torch import Tensor, nn

from gvr_lightning.config.declarations import declared
from gvr_lightning.config.moved import current
from gvr_lightning.errors import UserError
from gvr_lightning.files import load_checkpoint

EMA = "ema.module."  # before the names of averaged weights
STARTS = ("pretrained", "weights")  # of a model: where its first weights came from


def make(node: Any, key: str, **arguments: Any) -> Any:
    """``instantiate`` whose complaint about a value is one line with the configuration's key.

    Raises:
        UserError: if the target refuses its arguments.
    """
    if node is None:
        return None
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    try:
        return instantiate(current(plain), _convert_="all", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, ValueError | TypeError | MisconfigurationException):
            raise UserError(f"{key}: {' '.join(str(error.__cause__).split())}") from error
        raise


@dataclass
class Loaded:
    """A network from a checkpoint, in evaluation mode, and what it was trained on."""

    network: nn.Module
    kind: str  # classification or ddpm
    config: dict[str, Any]
    image_shape: tuple[int, ...]
    mean: Tensor  # of each channel in [0, 1], as the network's images were normalised
    std: Tensor


def load_network(path: Path, weights: str = "ema") -> Loaded:
    """The network of one of this project's checkpoints, wherever it lies: a checkpoint holds its configuration.

    Args:
        path: of the .ckpt.
        weights: "ema", the moving average where there is one, or "raw".

    Raises:
        UserError: for a file that is no such checkpoint.
    """
    checkpoint = load_checkpoint(Path(path))
    config, data = checkpoint.get("config"), checkpoint.get("ViewsDataModule", {})
    if config is None or "image_shape" not in data:
        raise UserError(f"checkpoint {path} is not one of this project's runs: it holds no configuration")
    shape = tuple(data["image_shape"])
    model = {key: None if key in STARTS else value for key, value in config["model"].items()}
    network = make(OmegaConf.create(model), "model", image_shape=shape, num_classes=data["num_classes"])
    state = checkpoint["state_dict"]
    averaged = any(name.startswith(EMA) for name in state)
    prefix = EMA if averaged and weights == "ema" else "model."
    network.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
    return Loaded(
        *(network.eval(), declared(config["task"], "kind", "ddpm" if averaged else "classification"), config, shape),
        *(torch.as_tensor(data[name]) for name in ("mean", "std")),
    )
