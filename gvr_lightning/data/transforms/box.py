"""Boxes of a random area and shape, as torchvision draws them: ten trials, of which the first that fits counts."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gvr_lightning.data.transforms.kinds import below, between, exact

TRIALS = 10
DRAWS = 2 * TRIALS + 2


def shapes(u: Tensor, size: tuple[int, int], scale: Sequence[float], ratio: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Height and width (10, N) of every trial, from numbers (20, N), as whole numbers in float64.

    Args:
        u: for the area, then for the ratio.
        size: (H, W) of the images.
        scale: least and most of their area.
        ratio: least and most width by height; its logarithm is uniform.
    """
    u = exact(u)
    area = between(u[:TRIALS], *scale) * (size[0] * size[1])
    by = between(u[TRIALS:], math.log(ratio[0]), math.log(ratio[1])).exp()
    return (area / by).sqrt().round(), (area * by).sqrt().round()


def first_that(fits: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Of each column the first row for which something holds: whether there is one, and the values there."""
    first = fits.int().argmax(0, keepdim=True)
    return fits.any(0), *(value.gather(0, first).squeeze(0) for value in values)


def crop_boxes(u: Tensor, size: tuple[int, int], scale: Sequence[float], ratio: Sequence[float]) -> tuple[Tensor, ...]:
    """Top, left, height and width (N,) of RandomResizedCrop's boxes; the middle of the image where no trial fits."""
    H, W = size
    h, w = shapes(u[: 2 * TRIALS], size, scale, ratio)
    found, h, w = first_that((h > 0) & (h <= H) & (w > 0) & (w <= W), h, w)
    other = (min(H, round(W / ratio[0])), min(W, round(H * ratio[1])))
    h, w = (torch.where(found, drawn, float(middle)) for drawn, middle in zip((h, w), other, strict=True))
    places = []
    for draw, n, side, middle in zip(u[2 * TRIALS :], size, (h, w), other, strict=True):
        places.append(torch.where(found, below(exact(draw), n - side + 1), float((n - middle) // 2)))
    return *places, h, w


def crop_box(
    u: Sequence[float], size: tuple[int, int], scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """The box of :func:`crop_boxes` for one image, from its own numbers (DRAWS,), without tensors."""
    H, W = size
    h, w = min(H, round(W / ratio[0])), min(W, round(H * ratio[1]))
    top, left = (H - h) // 2, (W - w) // 2
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for draw, of_ratio in zip(u[:TRIALS], u[TRIALS : 2 * TRIALS], strict=True):
        area, by = (draw * (scale[1] - scale[0]) + scale[0]) * (H * W), math.exp(of_ratio * (high - low) + low)
        height, width = round(math.sqrt(area / by)), round(math.sqrt(area * by))
        if 0 < height <= H and 0 < width <= W:
            places = zip(u[2 * TRIALS :], (H - height, W - width), strict=True)
            top, left = (min(math.floor(place * (free + 1)), free) for place, free in places)
            return top, left, height, width
    return top, left, h, w


class Erasing:
    """Random erasing: a box of the mean colour, in float images that are normalised.

    Zhong et al. 2017 (arXiv 1708.04896), as torchvision's RandomErasing with value 0.

    Args:
        prob: how often.
        scale: least and most of the image's area.
        ratio: least and most height by width.
    """

    number, draws = 8, DRAWS + 1

    def __init__(self, prob: float, scale: Sequence[float], ratio: Sequence[float]) -> None:
        self.prob, self.scale, self.ratio = prob, scale, ratio

    def outside(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, H, W): 0 in the box, 1 elsewhere."""
        w, h = shapes(u[: 2 * TRIALS], size, self.scale, self.ratio)
        found, h, w = first_that((h < size[0]) & (w < size[1]), h, w)
        inside = (found & (u[-1] < self.prob)).view(-1, 1, 1)
        lines = []
        for draw, n, side in zip(u[2 * TRIALS :], size, (h, w), strict=False):
            offset = torch.arange(n, device=u.device) - below(exact(draw), n - side + 1).unsqueeze(1)
            lines.append((offset >= 0) & (offset < side.unsqueeze(1)))
        return (~(inside & lines[0].unsqueeze(2) & lines[1].unsqueeze(1))).float().unsqueeze(1)
