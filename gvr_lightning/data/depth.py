"""Grey images of more than 8 bits: what range their values have, and how it becomes 0..255."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FULL = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))  # what cameras and scanners give at most

Range = tuple[float, float]


def is_deep(image: "Image.Image") -> bool:
    """Whether an image has more than 256 levels."""
    return image.mode.startswith(("I", "F"))


def values(image: "Image.Image") -> Range:
    """The least and the largest value of an image's pixels."""
    pixels = np.asarray(image)
    return float(pixels.min()), float(pixels.max())


def full_range(found: Sequence[Range]) -> Range | None:
    """The range of a data set's deep images, from that of each: from 0 to what 8, 10, 12, 14 or 16 bits hold.

    None without any, and where no such range holds them: they are negative, or larger.
    """
    if not found:
        return None
    low, high = min(least for least, _ in found), max(largest for _, largest in found)
    top = next((full for full in FULL if high <= full), None)
    return None if top is None or low < 0 else (0.0, float(top))


def to_bytes(image: "Image.Image", value_range: Range | None) -> "Image.Image":
    """A deep image with its range's values as 0..255; what lies outside becomes the nearest.

    Args:
        image: grey.
        value_range: None: that of the image alone, where it holds whole numbers.

    Raises:
        ValueError: for values whose range is not known.
    """
    from PIL import Image

    if image.mode == "F" and value_range is None:
        raise ValueError("its pixels are floating-point numbers: set data.value_range, such as [0, 1]")
    found = value_range or full_range([values(image)])
    if found is None:
        raise ValueError("its pixels are negative or have more than 16 bits: set data.value_range=[lowest, highest]")
    low, high = found
    pixels = np.asarray(image)
    if value_range is None or (low, high) in [
        (0.0, float(full)) for full in FULL
    ]:  # as many levels as possible, exactly
        shifted = pixels.clip(0, int(high)).astype(np.int64) >> (int(high).bit_length() - 8)
        return Image.fromarray(shifted.astype(np.uint8))
    return Image.fromarray(((pixels - low) * (255 / (high - low))).round().clip(0, 255).astype(np.uint8))
