"""What a transform is, and the small steps that several share."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gvr_lightning.errors import UserError


class Transform(Protocol):
    """A function of images and of uniform numbers alone.

    Attributes:
        number: of its random numbers; no two transforms share one, so that none changes the others' draws.
        draws: uniform numbers an image.
    """

    number: int
    draws: int

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Images uint8 (N, C, H, W) and numbers (draws, N) in [0, 1) to images of the same kind and shape."""


def exact(x: Tensor) -> Tensor:
    """In float64, where the device has it, so that roots and sines rounded to float32 are the same on every device."""
    return x if x.device.type == "mps" else x.double()


def between(u: Tensor, low: float, high: float) -> Tensor:
    """Uniform numbers in [0, 1) to ones in [low, high)."""
    return u * (high - low) + low


def below(u: Tensor, n: Tensor | int) -> Tensor:
    """Whole numbers 0..n-1 from uniform ones, as float; u * n may round up to n."""
    return torch.clamp((u * n).floor(), max=n - 1)


def each(values: Tensor) -> Tensor:
    """A value for each image, (N,) to (N, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


def changed(images: Tensor, wanted: Tensor, change: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """``change(images, *values)`` of the images that are wanted (N,), and the others as they are.

    A device changes all of them, since which are wanted is known there alone; a CPU, which nobody waits for, these.
    """
    if not takes_rows(images):
        return torch.where(each(wanted), change(images, *values), images)
    rows = wanted.nonzero().squeeze(1)
    return images.index_copy(0, rows, change(images[rows], *(value[rows] for value in values)))


def takes_rows(images: Tensor) -> bool:
    """Whether rows may be chosen by what is in a tensor."""
    return images.is_cpu


def to_bytes(images: Tensor) -> Tensor:
    """Cut to 0..255, then to the whole number below, as torchvision does."""
    return images.clamp_(0, 255).to(torch.uint8)


def require_colours(images: Tensor) -> None:
    """Raise a UserError for images that are neither grey nor red, green and blue."""
    if images.shape[1] not in (1, 3):
        raise UserError(f"data.augmentation: changes of colour need images of 1 or 3 channels, not {images.shape[1]}")
