"""What ``gvr-sample`` does: a trained network from wherever it lies, images to wherever they are wanted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gvr_lightning.app.build import build_sampler
from gvr_lightning.app.trained import device_named
from gvr_lightning.checkpoint import load_network
from gvr_lightning.config.trust import names, require_own
from gvr_lightning.diffusion.noise import Noise
from gvr_lightning.diffusion.pipeline import is_pipeline, load_pipeline, save_pipeline
from gvr_lightning.diffusion.progress import shown
from gvr_lightning.diffusion.sampler import draw
from gvr_lightning.errors import UserError
from gvr_lightning.instantiate import make
from gvr_lightning.models.unet import to_diffusers
from gvr_lightning.recording.images import save_grid, save_images

Shape = tuple[int, ...]


def draw_images(
    ckpt: str,
    sampler: Any,
    out: str = "samples.png",
    n: int = 64,
    seed: int = 0,
    weights: str = "ema",
    batch_size: int = 100,
    bf16: bool = False,
    device: str = "auto",
    trust: str | Sequence[str] | None = None,
    export: str | None = None,
) -> Path:
    """Draw ``n`` images, as one grid or one by one; or export the network.

    Returns:
        What was written.

    Raises:
        UserError: for a checkpoint that is none of a diffusion model, or settings that do not fit it.
    """
    network, noise, shape = _trained(Path(ckpt).expanduser(), weights, names(trust))
    if export is not None:
        save_pipeline(network, noise, Path(export).expanduser())
        return Path(export).expanduser()
    drawer, path = build_sampler(sampler, noise), Path(out).expanduser()
    if path.suffix not in ("", ".png"):
        raise UserError(f"out={out}: a grid is a .png; for one file an image name a folder, without a suffix")
    path.parent.mkdir(parents=True, exist_ok=True)  # before the work, so that a wrong path shows at once
    network.to(device_named(device), memory_format=torch.channels_last)
    batches = shown(draw(drawer, network, shape, n, seed, batch_size, bf16), n)
    if path.suffix == ".png":
        save_grid(torch.cat([batch.cpu() for batch in batches]), path)
        return path
    for first, batch in zip(range(0, n, batch_size), batches, strict=True):
        save_images(batch, path, first)
    return path


def _trained(path: Path, weights: str, trust: Sequence[str]) -> tuple[Any, Noise, Shape]:
    """The network, its noise and the images' shape."""
    if is_pipeline(path):
        network, noise = load_pipeline(path)
        config: Any = to_diffusers(network).config
        size = config.sample_size
        return network, noise, (config.in_channels, *((size, size) if isinstance(size, int) else size))
    if path.is_dir():
        if not (path / "checkpoints" / "last.ckpt").exists():
            raise UserError(f"ckpt={path}: a folder with neither checkpoints/last.ckpt nor model_index.json")
        path = path / "checkpoints" / "last.ckpt"
    loaded = load_network(path, weights, trust)
    if loaded.kind != "ddpm":
        raise UserError(f"ckpt={path}: the checkpoint of a {loaded.kind} run; images are drawn from a task=ddpm run's")
    node = require_own(loaded.config["task"].get("noise"), "task.noise", path, "task")
    return loaded.network, make(node, "task.noise", wanted=Noise), loaded.image_shape
