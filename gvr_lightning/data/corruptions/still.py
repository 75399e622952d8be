"""Corruptions that draw nothing: images in [0, 1], (N, C, H, W), to images that may lie outside."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

BITS = 2**22  # parts of a weight of 1 in Pillow's resampling


def defocus_blur(x: Tensor, radius: float, sigma: float) -> Tensor:
    """By a disk that a Gaussian of 3x3 pixels has softened; borders are mirrored at the middle of their pixels."""
    side = torch.arange(-2.0, 3, dtype=torch.float64)
    disk = (side.square() + side.square().unsqueeze(1) <= radius**2).double()
    soft = (-(side[1:4] ** 2) / (2 * sigma**2)).exp()
    soft = soft / soft.sum()
    soft = soft.unsqueeze(1) * soft
    kernel = F.conv2d((disk / disk.sum())[None, None], soft[None, None], padding=1).to(x)
    C, (rows, columns) = x.shape[1], (_mirrored(n, x.device) for n in x.shape[2:])
    return F.conv2d(x[:, :, rows][..., columns], kernel.expand(C, 1, 5, 5), groups=C)


def brightness(x: Tensor, by: float) -> Tensor:
    """Value, of hue, saturation and value, raised; a black pixel becomes grey."""
    value = x.amax(1, keepdim=True)
    raised = (value + by).clamp(max=1)
    return torch.where(value > 0, x * (raised / torch.where(value > 0, value, 1.0)), raised)


def contrast(x: Tensor, by: float) -> Tensor:
    """Distances to each channel's mean lessened."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * by + mean


def pixelate(x: Tensor, share: float) -> Tensor:
    """Fewer pixels, each the mean of what it covers, and up again, to bytes at each step as in Pillow."""
    levels = x * 255
    for dim in (3, 2):
        levels = _boxes(levels, dim, max(1, int(x.shape[dim] * share)))
    for dim in (3, 2):
        levels = _boxes(levels, dim, x.shape[dim])
    return levels / 255


def jpeg_compression(x: Tensor, quality: int) -> Tensor:
    """Through Pillow's JPEG, image by image on the CPU."""
    images = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = np.stack([_through_jpeg(image, quality) for image in images])
    return torch.from_numpy(found).view(-1, *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2).to(x) / 255


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def _mirrored(n: int, device: torch.device) -> Tensor:
    """The rows of an image of n that are those of one with two more on each side."""
    period = max(1, 2 * (n - 1))
    row = torch.arange(-2, n + 2, device=device).remainder(period)
    return torch.minimum(row, period - row).clamp(max=n - 1)


def _boxes(levels: Tensor, dim: int, size: int) -> Tensor:
    """One dimension brought to a size, as Pillow's BOX filter does, to whole levels."""
    n = levels.shape[dim]
    scale = n / size
    half = max(scale, 1) / 2
    middle = (torch.arange(size, dtype=torch.float64).unsqueeze(1) + 0.5) * scale
    pixel = torch.arange(n, dtype=torch.float64)
    first, last = (middle - half + 0.5).floor().clamp(min=0), (middle + half + 0.5).floor().clamp(max=n)
    apart = (pixel - middle + 0.5) / (2 * half)
    weights = ((pixel >= first) & (pixel < last) & (apart > -0.5) & (apart <= 0.5)).double()
    weights = (weights / weights.sum(1, keepdim=True) * BITS + 0.5).floor() / BITS
    out = (levels.movedim(dim, 3) @ weights.T.to(levels)).movedim(3, dim)
    return (out + 0.5).floor().clamp(0, 255)
