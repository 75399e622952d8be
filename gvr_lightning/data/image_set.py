"""What every data source returns."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gvr_lightning.data.cache import Cache
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.errors import UserError
from gvr_lightning.random import hash_key, permutation

SPLIT = 3  # what a random number is for; data/datamodule.py has the others
Images = Tensor | EncodedImages


@dataclass(frozen=True)
class ImageSet:
    """Images, uint8 (N, C, H, W), possibly a memory map or still encoded, and their targets, int64 (N,)."""

    images: Images
    targets: Tensor


@dataclass(frozen=True)
class Splits:
    """A data set: its official parts, its class names, and the sha256 of its content in hex."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    hash: str
    usual_names: tuple[str, ...] = ()  # of the classes, whatever its files call them, where the data set is a known one
    left_out: tuple[str, ...] = ()  # files that are broken
    value_range: tuple[float, float] | None = None  # what became 0 to 255, of images of more than 8 bits
    val: ImageSet | None = None  # for validation; None: training images are held out
    cache: Cache | None = None  # where what is worked out about the images is kept


def require_whole(splits: object) -> Splits:
    """What a data source has returned, if it is what the project works with.

    Raises:
        UserError: naming the first thing that is another.
    """
    if not isinstance(splits, Splits):
        raise UserError(f"data.source: gives a {type(splits).__name__}, not gvr_lightning.data.image_set.Splits")
    parts = {"train": splits.train, "test": splits.test} | ({} if splits.val is None else {"val": splits.val})
    for name, part in parts.items():
        if complaint := _complaint(part, len(splits.classes)):
            raise UserError(f"data.source: {name}.{complaint}")
    shapes = {name: tuple(part.images.shape[1:]) for name, part in parts.items()}
    for name, title in (("test", "test"), ("val", "validation")):
        if shapes.get(name, shapes["train"]) != shapes["train"]:
            both = f"the training images are {shapes['train']} and the {title} images {shapes[name]}"
            raise UserError(f"data.source: {both} (C, H, W)")
    if not isinstance(splits.hash, str):
        raise UserError("data.source: hash is the sha256 of the content, as text (image_set.content_hash)")
    return splits


def _complaint(part: object, classes: int) -> str:
    images, targets = getattr(part, "images", None), getattr(part, "targets", None)
    shape = images.shape if isinstance(images, Images) else ()
    if not isinstance(images, Images) or images.dtype != torch.uint8 or len(shape) != 4 or not shape.numel():
        return f"images are {_shown(images)}, not uint8 (N, C, H, W); float images in [0, 1] are images * 255, rounded"
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.shape != images.shape[:1]:
        return f"targets are {_shown(targets)}, not int64 ({len(images)},), one an image"
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        return f"targets run from {low} to {high}, where {classes} classes are 0 to {classes - 1}"
    return ""


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def divide(images: np.ndarray, targets: np.ndarray, order: np.ndarray, every: int) -> tuple[ImageSet, ImageSet]:
    """Training and test images of a set that has no official parts: every so many-th sample of each class is a test's.

    Args:
        images: uint8 (N, C, H, W).
        targets: int64 (N,).
        order: (N,), in which a class's samples are counted.
        every: one in so many.
    """
    by_class = order[np.argsort(targets[order], kind="stable")]
    in_test = np.zeros(len(targets), dtype=bool)
    in_test[by_class[::every]] = True
    train, test = (
        ImageSet(torch.from_numpy(images[part]), torch.from_numpy(targets[part])) for part in (~in_test, in_test)
    )
    return train, test


def held_out(n: int, fraction: float, most: int | None, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """Which of n training images are trained on, and which are held out for validation, both in order.

    Args:
        n: how many there are.
        fraction: to hold out; they are the same whatever ``most`` is.
        most: to train on; None for all of the rest.
        seed: of another choice than the usual one.

    Raises:
        UserError: for too few images.
    """
    key = hash_key(SPLIT) if seed is None else hash_key(SPLIT, seed)
    order, n_val = permutation(key, n), round(fraction * n)
    train, val = order[n_val:][:most].sort().values, order[:n_val].sort().values
    if len(train) < 2 or (fraction > 0 and not n_val):
        raise UserError(f"{n} training images are too few for data.val_fraction={fraction}")
    return train, val


def content_hash(*sets: ImageSet) -> str:
    """The sha256 over the shapes, pixels and targets of the sets, in hex."""
    digest = hashlib.sha256()
    for tensor in (tensor for part in sets for tensor in (part.images, part.targets)):
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(np.ascontiguousarray(tensor[:].numpy()).data)
    return digest.hexdigest()


def channel_moments(
    images: Images, index: Tensor, together: int = 4096, advance: Callable[[int], None] = lambda images: None
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in [0, 1], float32 (C,), exact whatever the number of pixels.

    From counts of the 256 levels; a constant channel has standard deviation 1, so that it can be divided by. So many
    images are looked at ``together``, and ``advance`` is told how many.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for rows in index.split(together):
        part = images[rows]
        for c in range(images.shape[1]):
            counts[c] += torch.bincount(part[:, c].flatten(), minlength=256)
        advance(len(rows))
    level = torch.arange(256, dtype=torch.float64) / 255
    weight = counts / counts.sum(1, keepdim=True)
    mean = weight @ level
    std = (weight @ level.square() - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std > 0, std, torch.ones_like(std)).float()
