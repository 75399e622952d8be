"""What every data source returns."""

import hashlib
from dataclasses import dataclass

import numpy as np
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
