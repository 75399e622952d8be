"""What changes grey levels, as torchvision and Pillow have it, on bytes."""

import torch
from torch import Tensor

from gvr_lightning.data.transforms.kinds import each, to_bytes


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """Without the lowest bits, (N,) of them."""
    step = each(bits.exp2().round())
    return (images / step).floor_().mul_(step).to(torch.uint8)


def solarized(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverted from a level on, (N,)."""
    return torch.where(images >= each(threshold), 255 - images, images)


def autocontrasted(images: Tensor) -> Tensor:
    """Each channel stretched to 0..255."""
    levels = images.float()
    least = levels.amin((2, 3), keepdim=True)
    by = (levels.amax((2, 3), keepdim=True) - least) * (1 / 255)
    return torch.where(by > 0, to_bytes((levels - least) / torch.where(by > 0, by, 1.0)), images)


def equalized(images: Tensor) -> Tensor:
    """Each channel's histogram made as flat as Pillow makes it."""
    flat = images.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    top = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - top).div(255, rounding_mode="floor")
    before = counts.cumsum(2) - counts
    table = (before + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    new = table.gather(2, flat).view_as(images).to(torch.uint8)
    return torch.where((step > 0).unsqueeze(3), new, images)


def smoothed(images: Tensor) -> Tensor:
    """The mean of each pixel, five times, and its eight neighbours, to a whole number; the border as it is."""
    levels = images.float()
    H, W = levels.shape[2:]
    if min(H, W) < 3:
        return levels
    total = 4 * levels[..., 1:-1, 1:-1]
    for top in range(3):
        for left in range(3):
            total = total + levels[..., top : top + H - 2, left : left + W - 2]
    levels[..., 1:-1, 1:-1] = (total / 13).round()
    return levels
