"""Normal random numbers that are a pure function of their coordinates."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def normal(key: int, index: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float32 (B, *shape) on index's device, for samples ``index`` (B,) under ``key``.

    A Philox generator for each sample, keyed by (key, sample): drawn on the CPU, so the same on every device, and three
    times faster than hashing. (torch's CPU generator has 32 bits of seed: of 50,000 images two might be one.)
    """
    numbers, word = np.empty((len(index), *shape), dtype=np.float32), key & (1 << 64) - 1
    for row, i in zip(numbers, index.tolist(), strict=True):
        philox = np.random.Philox(key=np.array([word, i], dtype=np.uint64))
        np.random.Generator(philox).standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(numbers).to(index.device)
