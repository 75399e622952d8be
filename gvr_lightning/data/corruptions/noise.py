"""Noise: levels in [0, 1] and uniform numbers in [0, 1), both (N, C, H, W), to levels that may lie outside."""

from functools import cache

import torch
from torch import Tensor


def gaussian_noise(x: Tensor, u: Tensor, scale: float) -> Tensor:
    """Normal, of a standard deviation."""
    middle = u + 2.0**-25  # of the 2^-24 that a number stands for, so that none is 0
    normal: Tensor = torch.special.ndtri(middle)
    return x + scale * normal


def shot_noise(x: Tensor, u: Tensor, photons: int) -> Tensor:
    """Poisson, of so many photons at level 1; what is brighter than that is 1."""
    bytes_ = (x * 255).round()
    found = torch.searchsorted(_table(photons).to(x), (bytes_ + u).contiguous(), right=True)
    return (found - bytes_.long() * photons) / photons


@cache
def _table(photons: int) -> Tensor:
    """The distribution function of each of the 256 levels, one behind the other and each above the one before.

    So a single search finds every pixel's count.
    """
    level = torch.arange(256, dtype=torch.float64).unsqueeze(1)
    count = torch.arange(1.0, photons + 1, dtype=torch.float64)
    below = torch.where(level > 0, torch.special.gammaincc(count, level / 255 * photons), 1.0)  # P(X < count)
    return (level + below).flatten()


def impulse_noise(x: Tensor, u: Tensor, amount: float) -> Tensor:
    """A share of the values is 0 or 1, half of them each."""
    return torch.where(u < amount, (u < amount / 2).to(x.dtype), x)
