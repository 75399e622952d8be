"""How tensors lie in memory, so that operations on lists of them are one kernel. Imports torch only."""

import torch
from torch import Tensor


def by_stride(t: Tensor) -> list[int]:
    """A tensor's dimensions in the order of its memory."""
    return sorted(range(t.ndim), key=t.stride, reverse=True)


def part_like(vector: Tensor, start: int, t: Tensor) -> Tensor:
    """What of a vector holds a tensor's entries in the order of its memory, from ``start`` on, in the tensor's shape.

    Its strides are the tensor's own if that has no gaps, also where a side of one makes them arbitrary: torch compares.
    """
    if t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last):
        return vector.as_strided(t.shape, t.stride(), vector.storage_offset() + start)
    order = by_stride(t)
    part = vector[start : start + t.numel()].view([t.shape[i] for i in order])
    return part.permute(sorted(range(t.ndim), key=order.__getitem__))
