"""A generator of random numbers for each image, of whose numbers many steps' are drawn at once. Imports torch only."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gvr_lightning.methods.upload import upload

AHEAD = 2**22  # numbers drawn at once, at most, unless a single step takes more
BLOCK = 16  # torch draws normal numbers by so many: one draw of several whole blocks is as several draws


class Generators(list[torch.Generator]):
    """One an image, on the CPU, so that a seed means the same images on every device.

    A scheduler of diffusers takes it for the list that it is, and draws from each, in every step. :meth:`normal` gives
    the same numbers, step by step, from fewer draws and fewer copies to the device.

    Args:
        seeds: of the images.
        steps: how often noise may be wanted.
    """

    def __init__(self, seeds: Iterable[int], steps: int) -> None:
        super().__init__(torch.Generator().manual_seed(seed) for seed in seeds)
        self._left = steps
        self._drawn: list[Tensor] = []

    def normal(self, like: Tensor) -> Tensor:
        """The next step's standard normal numbers, one row a generator, of a tensor's shape, type and device."""
        if not self._drawn:
            steps = max(1, min(self._left, AHEAD // max(1, like.numel())))
            self._left -= steps
            numbers = self._numbers(steps, like.shape[1:], like.dtype)
            self._drawn = list(upload(numbers, like.device).unbind(1))[::-1]
        return self._drawn.pop()

    def _numbers(self, steps: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """(images, steps, *shape), on the CPU."""
        numbers = torch.empty(len(self), steps, *shape, dtype=dtype)
        at_once = torch.Size(shape).numel() % BLOCK == 0
        for row, own in zip(numbers, self, strict=True):
            for part in [row] if at_once else row:
                part.normal_(generator=own)
        return numbers
