"""To and from the folders of diffusers' pipelines: its samplers work on our networks, published weights in ours."""

from pathlib import Path
from typing import Any

from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.errors import UserError
from gvr_lightning.files import read_json
from gvr_lightning.models.pretrained_unet import read_unet
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.models.unet import from_diffusers, to_diffusers


def save_pipeline(network: SplitNetwork, noise: Noise, folder: Path) -> None:
    """Write a folder that ``diffusers.DDPMPipeline.from_pretrained`` opens (and ``DDIMPipeline``'s).

    Args:
        network: a U-Net of :func:`gvr_lightning.models.unet.unet`.
        noise: what it was trained with.
        folder: made if need be.

    Raises:
        UserError: if the folder cannot be written.
    """
    from diffusers import DDPMPipeline

    try:
        DDPMPipeline(unet=to_diffusers(network), scheduler=noise.scheduler).save_pretrained(str(folder))
    except OSError as error:
        raise UserError(f"cannot write the pipeline to {folder}: {error}") from error


def load_pipeline(folder: Path) -> tuple[SplitNetwork, Noise]:
    """The network of an unconditional pipeline's folder, in evaluation mode, and its noise schedule.

    Its two parts by their own names, and not ``DDPMPipeline.from_pretrained``, which imports what the folder names.

    Raises:
        UserError: for a folder that holds no such pipeline.
    """
    import diffusers
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        parts = read_json(folder / "model_index.json")
        library, scheduler = parts["scheduler"]
        if parts["unet"] != ["diffusers", "UNet2DModel"] or library != "diffusers":
            raise ValueError(f"its parts are {parts['unet']} and {parts['scheduler']}")
        if not str(scheduler).endswith("Scheduler"):
            raise ValueError(f"{scheduler} is no scheduler")
        kind: Any = getattr(diffusers, scheduler)
        settings = read_json(folder / "scheduler" / "scheduler_config.json")
        net: Any = read_unet(folder / "unet")
        return from_diffusers(net).eval(), Noise.of(kind.from_config(settings))
    except (OSError, LookupError, ValueError, RuntimeError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} holds no unconditional diffusers pipeline: {reason}") from error


def is_pipeline(folder: Path) -> bool:
    """Whether a folder looks like a pipeline of diffusers."""
    return (folder / "model_index.json").is_file()
