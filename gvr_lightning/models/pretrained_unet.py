"""A U-Net's weights from a folder that diffusers wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from diffusers.models import UNet2DModel

FREE = ("sample_size", "dropout")  # settings that the weights do not depend on


def load_unet(folder: Path, config: dict[str, Any]) -> "UNet2DModel":
    """The folder's network, if its parameters are those of the configuration's.

    Args:
        folder: of a pipeline (with ``unet/``) or of the model itself.
        config: arguments of ``UNet2DModel``; of those that no shape depends on, the image's size and the dropout are
            taken from here and the others from the folder.

    Raises:
        ValueError: for a folder without a U-Net, with another one, or with a part of its weights only.
    """
    from diffusers.models import UNet2DModel

    if (folder / "unet" / "config.json").is_file():
        folder = folder / "unet"
    if not (folder / "config.json").is_file():
        raise ValueError(f"weights={folder}: no config.json there or in unet/, as diffusers' save_pretrained writes")
    free = {name: config[name] for name in FREE}
    try:
        theirs = _settings(folder)
        with torch.device("meta"):  # shapes only
            ours, found = UNet2DModel(**config), UNet2DModel.from_config(theirs, **free)
        if _shapes(ours) != _shapes(found):
            differing = {n: v for n, v in found.config.items() if n in config and v != config[n]}
            its = ", ".join(f"{n}={v} (not {config[n]})" for n, v in differing.items())
            raise ValueError(f"not the network that the model's settings describe: it has {its or 'other layers'}")
        return read_unet(folder, **free)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"weights={folder}: {' '.join(str(error).split())}") from error


def read_unet(folder: Path, **settings: Any) -> "UNet2DModel":
    """The U-Net of a folder with ``config.json``, with some of its settings replaced.

    Raises:
        OSError, ValueError: for a folder without one, or with a part of its weights only.
    """
    from diffusers.models import UNet2DModel

    _settings(folder)
    net, info = UNet2DModel.from_pretrained(
        folder, output_loading_info=True, low_cpu_mem_usage=False, local_files_only=True, **settings
    )
    if info["missing_keys"]:
        raise ValueError(f"its weights lack {info['missing_keys'][0]}")
    return net


def _settings(folder: Path) -> dict[str, Any]:
    """What config.json says, if it is of a plain U-Net: diffusers would import a quantizer that it names."""
    from gvr_lightning.files import read_json

    found = read_json(folder / "config.json")
    if not isinstance(found, dict) or found.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError("config.json is not that of a UNet2DModel")
    if "quantization_config" in found or "auto_map" in found:
        raise ValueError("config.json asks for code beside it, or for quantized weights")
    return found


def _shapes(net: "UNet2DModel") -> dict[str, torch.Size]:
    return {name: p.shape for name, p in net.state_dict().items()}
