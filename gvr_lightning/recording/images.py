"""Pictures of images: grids, and one image on its way."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gvr_lightning.files import atomic

SMALLEST = 48  # pixels that an image's side is drawn with, at least
GAP = 2


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write images, uint8 (N, C, H, W), as one PNG, whole or not at all; small ones enlarged pixel by pixel.

    Args:
        images: one channel or three.
        path: of the PNG; its folder is made.
        columns: default: as square as can be.
    """
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    scale = max(1, math.ceil(SMALLEST / min(height, width)))
    large = images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    h, w = large.shape[2] + GAP, large.shape[3] + GAP
    canvas = torch.full((channels, rows * h + GAP, columns * w + GAP), 255, dtype=torch.uint8)
    for i, image in enumerate(large):
        top, left = GAP + i // columns * h, GAP + i % columns * w
        canvas[:, top : top + h - GAP, left : left + w - GAP] = image
    pixels = canvas.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic(path, lambda temporary: picture.save(temporary, format="PNG"))


def save_images(images: Tensor, folder: Path, first: int = 0) -> None:
    """Write images, uint8 (N, C, H, W), as folder/000000.png and so on, numbered from ``first``."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images.cpu(), start=first):
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(folder / f"{i:06d}.png")


def evenly(items: Sequence[Tensor], number: int) -> list[Tensor]:
    """That many of the items, the first and the last among them."""
    at = torch.linspace(0, len(items) - 1, min(number, len(items))).round().long()
    return [items[i] for i in at.tolist()]
