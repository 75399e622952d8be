"""What FID needs of the images that others are compared with, computed once and kept in the cache folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gvr_lightning.data.image_set import Images
from gvr_lightning.distributed.batch import gather_rows, rank_and_size
from gvr_lightning.metrics.cached import cache_path, keep, recall, say
from gvr_lightning.metrics.extractor import Extractor

BLOCK = 100  # images to a forward pass: always as many, as float32 features depend on that in their last digits


@dataclass(frozen=True)
class Statistics:
    """Sums over the features of some images, float64 on the CPU.

    Args:
        total: of the features, (D,).
        outer: of their outer products, (D, D).
        count: of the images.
    """

    total: Tensor
    outer: Tensor
    count: int

    def variance(self) -> float:
        """Of the features, over all of them together: the trace of their covariance."""
        return float(self.outer.trace() - self.total.square().sum() / self.count) / (self.count - 1)


def statistics(extractor: Extractor, images: Images) -> Statistics:
    """Of images, uint8 (N, C, H, W), possibly a memory map or still encoded."""
    total = torch.zeros(extractor.num_features, dtype=torch.float64)
    outer = torch.zeros(extractor.num_features, extractor.num_features, dtype=torch.float64)
    for features, _ in extract(extractor, images):
        total += features.sum(0)
        outer.addmm_(features.T, features)
    return Statistics(total, outer, len(images))


def cached_statistics(extractor: Extractor, images: Images, key: str, cache_dir: str | None = None) -> Statistics:
    """`statistics`, read from the cache folder if they are there.

    Args:
        extractor: gives the features.
        images: uint8 (N, C, H, W).
        key: says which images these are: their data set's hash and part.
        cache_dir: default: gvr_lightning in the user's cache folder.
    """
    name = f"{key}-{len(images)}-{extractor.identity[:16]}.npz"
    path = cache_path(cache_dir, "statistics", name)
    found = recall(path, lambda path: _read(path, extractor.num_features, len(images)))
    if found is None:
        say(f"features of {len(images):,} real images by {extractor.name}, once: kept as {path}")
        found = statistics(extractor, images)
        keep(path, lambda temporary: _write(temporary, found))
    return found


def extract(extractor: Extractor, images: Images, together: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and logits, block by block, float64 on the CPU: not every device has that.

    Args:
        extractor: gives them.
        images: uint8 (N, C, H, W), the same on every process.
        together: whether the processes share the work; then all have to ask.
    """
    blocks = [range(len(images))[start : start + BLOCK] for start in range(0, len(images), BLOCK)]
    rank, processes = rank_and_size() if together else (0, 1)
    for first in range(0, len(blocks), processes):
        group = blocks[first : first + processes]
        mine = group[rank] if rank < len(group) else range(1)
        found = extractor(images[mine.start : mine.stop])
        if processes > 1:
            counts = [len(group[r]) if r < len(group) else 0 for r in range(processes)]
            features, logits = (gather_rows(part[: counts[rank]], counts) for part in found)
            found = features, logits
        # in blocks again, as sums of others differ in their last digits
        yield from zip(*(part.cpu().double().split(BLOCK) for part in found), strict=True)


def _read(path: Path, num_features: int, count: int) -> Statistics:
    with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
        total, outer = torch.from_numpy(file["total"]), torch.from_numpy(file["outer"])
    if total.shape != (num_features,) or outer.shape != (num_features, num_features) or total.dtype != torch.float64:
        raise ValueError("statistics of something else")
    return Statistics(total, outer, count)


def _write(path: Path, found: Statistics) -> None:
    with open(path, "wb") as file:  # numpy would change the name of a path
        np.savez(file, total=found.total.numpy(), outer=found.outer.numpy())
