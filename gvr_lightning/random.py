"""Random numbers that are a pure function of their coordinates. Imports torch only.

A stateful generator's numbers depend on what was drawn before; these depend on (seed, epoch, sample, view) alone,
so one process or four, a resumed run and an uninterrupted one, see the same pixels.
"""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def _signed(x: int) -> int:
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x


# splitmix64's finalizer (Steele, Lea, Flood 2014); int64 arithmetic wraps as unsigned does
_GAMMA, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_M1)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_M2)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def hash_key(*coordinates: int) -> int:
    """A signed 64-bit hash of some integers, order mattering."""
    key = 0
    for c in coordinates:
        key = (key ^ (c & _MASK)) + _GAMMA & _MASK
        key = (key ^ key >> 30) * _M1 & _MASK
        key = (key ^ key >> 27) * _M2 & _MASK
        key ^= key >> 31
    return _signed(key)


def uniform(key: int | Tensor, index: Tensor, draws: int) -> Tensor:
    """Uniform numbers in [0, 1), float32 of shape (draws, B), for samples ``index`` (B,) under ``key``.

    Entry (k, i) depends on (key, index[i], k) alone. For V keys at once give them as int64 (V, 1): (draws, V, B).
    """
    base = _mix(index.to(torch.int64) * _signed(_GAMMA) + key)
    draw = torch.arange(1, draws + 1, device=index.device).view(-1, *[1] * base.ndim)
    bits = _mix(base + draw * _signed(_GAMMA))
    return ((bits >> 40) & ((1 << 24) - 1)).to(torch.float32) * 2.0**-24


def seed_generators(seed: int, device: torch.device) -> None:
    """As ``torch.manual_seed``, for the CPU and one device.

    That one also notes, for each other kind of device, where in the program it was called: that takes as long as a
    small network's pass.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type not in ("cpu", "meta"):
        torch.manual_seed(seed)


def permutation(key: int, n: int) -> Tensor:
    """A random order of 0..n-1, int64 (n,), that depends on key and n alone."""
    generator = torch.Generator().manual_seed(key & _MASK >> 1)
    return torch.randperm(n, generator=generator)
