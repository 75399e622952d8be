"""Rotation, shear and translation: each pixel is the nearest of the source, black outside."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gvr_lightning.data.transforms.kinds import between, exact


class Affine(NamedTuple):
    """Where the pixels of a new image come from: a matrix about a centre, and a shift, of each image (N,).

    Coordinates are those of pixels' middles, so that the first is at 0.5.
    """

    xx: Tensor
    xy: Tensor
    yx: Tensor
    yy: Tensor
    shift_x: Tensor
    shift_y: Tensor
    about: Tensor  # what share of the image's size the centre is at: 0 the corner, 0.5 the middle


class Rotation:
    """Rotation about the middle, by up to some degrees either way.

    Args:
        degrees: at most.
    """

    number, draws = 2, 1

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """See :class:`Transform`."""
        return moved(images, rotated(between(u[0], -self.degrees, self.degrees)))


def rotated(degrees: Tensor) -> Affine:
    """Counter-clockwise."""
    angle = exact(degrees) * (math.pi / 180)
    cos, sin, zero = angle.cos().float(), angle.sin().float(), torch.zeros_like(degrees)
    return Affine(cos, -sin, sin, cos, zero, zero, zero + 0.5)


def moved(images: Tensor, by: Affine) -> Tensor:
    """The images (N, C, H, W) so transformed, one gather of bytes."""
    N, C, H, W = images.shape
    xx, xy, yx, yy, shift_x, shift_y, about = (value.view(-1, 1, 1) for value in by)
    x = torch.arange(W, device=images.device) + 0.5 - about * W
    y = (torch.arange(H, device=images.device) + 0.5).unsqueeze(1) - about * H
    column = (xx * x + xy * y + shift_x + about * W - 0.5).round().long()
    row = (yx * x + yy * y + shift_y + about * H - 0.5).round().long()
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
    pixel = torch.where(inside, row * W + column, 0).view(N, 1, H * W).expand(-1, C, -1)
    return images.flatten(2).gather(2, pixel).view_as(images).mul_(inside.unsqueeze(1))
