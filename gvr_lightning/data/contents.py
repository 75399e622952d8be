"""What is in encoded images, without decoding them: a hash of each, and the range of those of more than 8 bits."""

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress

from gvr_lightning.data.decode import Encoded, in_chunks
from gvr_lightning.data.depth import Range, full_range, is_deep, values
from gvr_lightning.errors import UserError

DEEP = (b"\x89PNG", b"P2", b"P5", b"II", b"MM")  # what begins PNG, PGM and TIFF, whose grey may have more than 8 bits


def read_all(images: Sequence[Encoded], workers: int | None) -> tuple[list[bytes], int]:
    """The hash of each image's bytes, and the top of the range of those of more than 8 bits.

    The latter is 0 without any, and where none of the usual ranges holds them. Raises `UserError` for a file that
    cannot be read.
    """

    def read_some(chunk: range) -> list[tuple[bytes, Range | None]]:
        try:
            return [_look(images[i]) for i in chunk]
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error

    found = [one for some in in_chunks("reading", images, read_some, workers) for one in some]
    deep = full_range([values for _, values in found if values is not None])
    return [content for content, _ in found], int(deep[1]) if deep else 0


def _look(encoded: Encoded) -> tuple[bytes, Range | None]:
    """The hash of an image, and its values' range where it is deep; what cannot be decoded is named later."""
    from PIL import Image

    raw = encoded.read_bytes()
    if raw.startswith(DEEP):
        with suppress(Exception), Image.open(io.BytesIO(raw)) as image:
            if is_deep(image):
                return hashlib.sha256(raw).digest(), values(image)
    return hashlib.sha256(raw).digest(), None
