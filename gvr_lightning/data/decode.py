"""Decodes images in parallel into one array."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

from gvr_lightning.data.broken import Broken, broken_line, reason_of
from gvr_lightning.data.depth import Range, is_deep, to_bytes
from gvr_lightning.errors import UserError
from gvr_lightning.progress import progress_bar

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
Size = int | Sequence[int] | None  # of images: a square's sides, height and width, or as they are
_CHUNK = 64  # files a thread takes at a time


class Encoded(Protocol):
    """An image as the bytes of its file, which may lie in another one; a path is one. As text it is what errors say."""

    def read_bytes(self) -> bytes:
        """Those of its file."""


def decode_image(
    encoded: Encoded, channels: int, image_size: Size, value_range: Range | None = None, share: float = 1.0
) -> np.ndarray:
    """The pixels of an image, uint8 (channels, H, W), upright; with ``image_size`` resized and cropped to it.

    A single number is that of a square's sides, two are the height and the width. ``value_range`` is that of the data
    set's images of more than 8 bits. ``share`` is what the crop keeps of the sides of what covers it.
    """
    with opened(encoded) as file:
        image = upright(file, channels, value_range)
    if image_size is not None:
        height, width = pair(image_size)
        if share < 1 or image.size != (width, height):
            image = _resize_and_crop(image, height, width, share)
    pixels: np.ndarray = np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)
    return pixels


def opened(encoded: Encoded) -> "Image.Image":
    """The file of an image, of which no pixel is decoded yet."""
    from PIL import Image

    return Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded.read_bytes()))


def orientation(file: "Image.Image") -> int:
    """How an image is to be turned, by its file: 1 for not at all; from 5 on height and width change places."""
    return int(file.getexif().get(0x0112, 1))


def upright(file: "Image.Image", channels: int, value_range: Range | None) -> "Image.Image":
    """The image of a file, turned as it says, of 8 bits and this many channels."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(file) if orientation(file) != 1 else file
    image = _to_mode(image, "RGB" if channels == 3 else "L", value_range)
    image.load()
    return image


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _to_mode(image: "Image.Image", mode: str, value_range: Range | None) -> "Image.Image":
    """Convert to 8-bit RGB or L. Pillow alone would clip deeper grey to white; transparency is dropped."""
    if is_deep(image):
        image = to_bytes(image, value_range)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image.convert(mode) if image.mode != mode else image


def _resize_and_crop(image: "Image.Image", height: int, width: int, share: float) -> "Image.Image":
    """As small as it covers the wanted size by its share (bilinear, antialiased), then the centre is cut out.

    As torchvision's Resize(int(size / share)) and CenterCrop(size).
    """
    from PIL import Image

    tall, wide = int(height / share), int(width / share)
    by_width = image.height * wide >= image.width * tall
    covering = (wide, image.height * wide // image.width) if by_width else (image.width * tall // image.height, tall)
    image = image.resize(covering, Image.Resampling.BILINEAR)
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    return image.crop((left, top, left + width, top + height))


def first_readable(
    images: Sequence[Encoded], channels: int, value_range: Range | None = None
) -> tuple[Encoded, tuple[int, ...]]:
    """The first image that can be decoded, and its shape (C, H, W)."""
    broken: Broken | None = None
    for encoded in images:
        try:
            return encoded, decode_image(encoded, channels, None, value_range).shape
        except Exception as error:  # `decode_all` names it
            broken = broken or Broken(encoded, reason_of(error))
    assert broken is not None, "there is at least one"
    raise UserError(broken_line([broken], others=len(images) - 1))


def decode_all(
    images: Sequence[Encoded],
    out: np.ndarray,
    image_size: Size,
    workers: int | None,
    value_range: Range | None = None,
    share: float = 1.0,
) -> dict[int, Broken]:
    """Decode every image into ``out``, uint8 (N, C, H, W), as :func:`decode_image` does.

    Raises `UserError` at once for one of another size than ``out``.

    Returns:
        Those that cannot be decoded, by number.
    """

    def decode_some(chunk: range) -> dict[int, Broken]:
        broken = {}
        for i in chunk:
            try:
                pixels = decode_image(images[i], out.shape[1], image_size, value_range, share)
            except Exception as error:  # on damaged files Pillow raises nearly anything
                broken[i] = Broken(images[i], reason_of(error))
                continue
            if pixels.shape != out.shape[1:]:
                raise UserError(_sizes_line(images, images[i], pixels.shape, value_range))
            out[i] = pixels
        return broken

    return {i: one for some in in_chunks("decoding", images, decode_some, workers) for i, one in some.items()}


def _sizes_line(images: Sequence[Encoded], other: Encoded, shape: tuple[int, ...], value_range: Range | None) -> str:
    first, expected = first_readable(images, shape[0], value_range)
    sizes = f"{first} is {expected[2]}x{expected[1]}, {other} is {shape[2]}x{shape[1]}"
    return f"the images differ in size ({sizes}): set data.image_size"


def in_chunks(label: str, images: Sequence[object], work: Callable[[range], T], workers: int | None) -> list[T]:
    """The results, in order, of ``work`` on consecutive ranges of the images' numbers, in threads; with a progress bar.

    Threads, not processes: decoding releases the interpreter for all but the smallest images, a forked process may not
    hold a GPU, and a spawned one imports torch first.
    """
    chunks = [range(len(images))[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    pool = ThreadPoolExecutor(workers or cores())
    results = []
    try:
        with counted(label, len(images)) as advance:
            for chunk, result in zip(chunks, pool.map(work, chunks), strict=True):
                results.append(result)
                advance(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, do not go through the rest first
    return results


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cores() -> int:
    """Of those the part of this process, where it is one of several on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def counted(label: str, count: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, to be told of each chunk's length; one plain line if stderr is no terminal."""
    rate = TextColumn("{task.fields[rate]:.0f} images/s")
    bar = progress_bar(MofNCompleteColumn(), rate, TimeRemainingColumn())
    if bar.disable:
        print(f"{label} {count} images", file=sys.stderr)
    with bar:
        task = bar.add_task(label, total=count, rate=0.0)
        start = time.monotonic()

        def advance(length: int) -> None:
            done = bar.tasks[0].completed + length
            bar.update(task, completed=done, rate=done / max(time.monotonic() - start, 1e-9))

        yield advance
