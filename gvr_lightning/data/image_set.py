"""What every data source returns."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images, uint8 (N, C, H, W), possibly a memory map, and their targets, int64 (N,)."""

    images: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Splits:
    """A data set: its two official parts, its class names, and the sha256 of its content in hex."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    hash: str


def content_hash(*sets: ImageSet) -> str:
    """The sha256 over the shapes, pixels and targets of the sets, in hex."""
    digest = hashlib.sha256()
    for tensor in (tensor for part in sets for tensor in (part.images, part.targets)):
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


def channel_moments(images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in [0, 1], float32 (C,), exact whatever the number of pixels.

    From counts of the 256 levels; a constant channel has standard deviation 1, so that it can be divided by.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for rows in index.split(4096):
        part = images[rows]
        for c in range(images.shape[1]):
            counts[c] += torch.bincount(part[:, c].flatten(), minlength=256)
    level = torch.arange(256, dtype=torch.float64) / 255
    weight = counts / counts.sum(1, keepdim=True)
    mean = weight @ level
    std = (weight @ level.square() - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std > 0, std, torch.ones_like(std)).float()
