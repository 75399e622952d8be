"""Several crops of one image, decoded once, and no finer than they need."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gvr_lightning.data.decode import Encoded, opened, orientation, upright
from gvr_lightning.data.depth import Range

Box = tuple[int, int, int, int]  # top, left, height, width
SPARE = 2  # a crop of a JPEG file that is decoded at a part of its size is still so many times as large as it becomes


def decode_crops(
    encoded: Encoded, boxes_in: Callable[[tuple[int, int]], Sequence[Box]], out: Tensor, value_range: Range | None
) -> None:
    """Cut boxes out of an image and resize each (bilinear, antialiased), as torchvision's resized_crop does.

    A JPEG file is decoded at the least of 1/8, 1/4, 1/2 of its size that all boxes allow.

    Args:
        encoded: the image.
        boxes_in: its size (H, W) -> the boxes, before a pixel is decoded.
        out: where they go, uint8 (boxes, C, height, width).
        value_range: of the data set's images of more than 8 bits.
    """
    channels, size = out.shape[1], (int(out.shape[2]), int(out.shape[3]))
    with opened(encoded) as file:
        turned = orientation(file) >= 5
        boxes = boxes_in(file.size if turned else (file.height, file.width))
        part = reduction(boxes, size)
        if part > 1 and file.draft(None, (file.width // part, file.height // part)) is None:
            part = 1  # its format has no such thing
        image = upright(file, channels, value_range)
    pixels = torch.from_numpy(np.array(image)).view(1, image.height, image.width, channels).permute(0, 3, 1, 2)
    for view, (top, left, height, width) in zip(out, boxes, strict=True):
        rows, columns = _reduced(top, height, part), _reduced(left, width, part)
        view.copy_(F.interpolate(pixels[:, :, rows, columns], size, mode="bilinear", antialias=True)[0])


def reduction(boxes: Sequence[Box], size: tuple[int, int]) -> int:
    """By how much an image may be smaller: 1, 2, 4 or 8."""
    room = min(min(height / size[0], width / size[1]) for _, _, height, width in boxes) / SPARE
    return next(part for part in (8, 4, 2, 1) if part <= max(room, 1))


def _reduced(start: int, length: int, part: int) -> slice:
    """Of a row's pixels those of a box, where each stands for so many."""
    first = round(start / part)
    return slice(first, max(first + 1, round((start + length) / part)))
