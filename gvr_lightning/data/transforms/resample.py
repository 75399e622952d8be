"""Crops brought to a size, and blur: every pixel a weighted mean of a row's pixels, then of a column's.

Weights are whole multiples of a power of two, so few bits that every sum is exact in float32: the order of the
summands, and so the device, makes no difference.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gvr_lightning.data.transforms.box import DRAWS, crop_box, crop_boxes
from gvr_lightning.data.transforms.kinds import between, changed, exact
from gvr_lightning.errors import UserError

CROP, BLUR = 2**14, 2**12  # parts that a weight of 1 has
STEPS = 2**4  # of a grey level that a blurred row keeps


class ResizedCrop:
    """Random resized crop, with the images' size in the end.

    Bilinear. No box is larger than the image that it becomes, so nothing is averaged: antialias or not is the same.

    Args:
        scale: least and most of the image's area.
        ratio: least and most width by height.
    """

    number, draws, crops = 1, DRAWS, True

    def __init__(self, scale: Sequence[float], ratio: Sequence[float]) -> None:
        self.scale, self.ratio = scale, ratio

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """See :class:`Transform`."""
        H, W = images.shape[2:]
        top, left, h, w = crop_boxes(u, (H, W), self.scale, self.ratio)
        return resampled(images, interpolation(top, h, H), interpolation(left, w, W), 1)

    def box(self, u: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, left, height and width of what is cut out of an image of this size, from its numbers (draws,)."""
        return crop_box(u, size, self.scale, self.ratio)


class GaussianBlur:
    """Gaussian blur of a random width, with reflected borders.

    Args:
        prob: how often.
        sigma: least and most standard deviation, pixels.
        radius: of the kernel, which has 2 radius + 1 taps.
    """

    number, draws = 7, 2

    def __init__(self, prob: float, sigma: Sequence[float], radius: int) -> None:
        self.prob, self.sigma, self.radius = prob, sigma, radius

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """See :class:`Transform`."""
        H, W = images.shape[2:]
        if self.radius >= min(H, W):
            raise UserError(f"data.augmentation.blur_radius={self.radius}: must be less than the images' side")
        sigma = between(exact(u[0]), *self.sigma)
        return changed(images, u[1] < self.prob, blurred, gaussian(sigma, self.radius))


def blurred(images: Tensor, taps: Tensor) -> Tensor:
    """Images by kernels of their own, (N, taps)."""
    rows, columns = (reflected(taps, n) for n in images.shape[2:])
    return resampled(images, rows, columns, STEPS)


def interpolation(start: Tensor, size: Tensor, n: int) -> Tensor:
    """Weights (N, n, n) of a row's pixels that bring ``size`` <= n of them, from ``start``, to n."""
    start, size, pixel = start.view(-1, 1, 1), size.view(-1, 1, 1), torch.arange(n, device=size.device)
    scale, offset = size / n, pixel - start
    distance = (offset + 0.5 - scale * (pixel + 0.5).unsqueeze(1)).abs()
    weights = (1 - distance).clamp_(min=0) * ((offset >= 0) & (offset < size))
    weights = weights / weights.sum(2, keepdim=True)
    return ((weights * CROP + 0.5).floor() / CROP).float()


def gaussian(sigma: Tensor, radius: int) -> Tensor:
    """Taps (N, 2 radius + 1) that add up to 1."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    taps = (-((offset / sigma.unsqueeze(1)) ** 2) / 2).exp()
    parts = (taps / taps.sum(1, keepdim=True) * BLUR).round()
    parts[:, radius] += BLUR - parts.sum(1)
    return (parts / BLUR).float()


def reflected(taps: Tensor, n: int) -> Tensor:
    """Weights (N, n, n) of a row's pixels, of a kernel that is reflected at the borders."""
    pixel, radius = torch.arange(n, device=taps.device), taps.shape[1] // 2
    source = (pixel + torch.arange(-radius, radius + 1, device=taps.device).unsqueeze(1)).abs()
    source = torch.where(source < n, source, 2 * (n - 1) - source)
    weights = taps.new_zeros(len(taps), n, n)
    for tap, of in zip(taps.unbind(1), source, strict=True):
        weights += tap.view(-1, 1, 1) * (of.unsqueeze(1) == pixel)
    return weights


def resampled(images: Tensor, rows: Tensor, columns: Tensor, steps: int) -> Tensor:
    """Weighted means along each row, to so many steps of a grey level, then along each column, to bytes."""
    N, C, H, W = images.shape
    with whole_float32():
        along = images.float().view(N, C * H, W) @ columns.transpose(1, 2)
        along = along.mul_(steps).add_(0.5).floor_().div_(steps)
        out = rows @ along.view(N, C, H, W).transpose(1, 2).reshape(N, H, C * W)
    return out.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8).view(N, H, C, W).transpose(1, 2).contiguous()


@contextmanager
def whole_float32() -> Iterator[None]:
    """Products of all bits, whatever a user allows for the network."""
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)
