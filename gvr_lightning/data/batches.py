"""Image files batch by batch, for those that need not be in memory together."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gvr_lightning.data.broken import Broken, reason_of
from gvr_lightning.data.decode import cores, decode_image
from gvr_lightning.data.depth import Range
from gvr_lightning.errors import UserError


class ImageReader:
    """Decodes files to images of one shape, as a data set of image files is.

    Args:
        paths: of the files.
        shape: (C, H, W); images of another size are resized and cropped to it.
        value_range: of images of more than 8 bits; None: of as many bits as each has.
        workers: threads; None for one a core.
        share: of the sides of a resized image, that the centre crop keeps.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        shape: Sequence[int],
        value_range: Range | None,
        workers: int | None = None,
        share: float = 1.0,
    ) -> None:
        self.share = share
        self.paths, self.shape, self.value_range, self.workers = paths, tuple(shape), value_range, workers
        if self.shape[0] not in (1, 3):
            raise UserError(f"the run's images have {self.shape[0]} channels; image files have 1 (grey) or 3 (colour)")

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor, list[Broken]]]:
        """Numbers (n,) and pixels uint8 (n, C, H, W) of up to ``size`` files in turn, without those that are broken."""
        with ThreadPoolExecutor(self.workers or cores()) as pool:
            for start in range(0, len(self.paths), size):
                numbers = range(start, min(start + size, len(self.paths)))
                found = list(pool.map(self._read, numbers))
                good = [(i, one) for i, one in zip(numbers, found, strict=True) if isinstance(one, np.ndarray)]
                pixels = np.stack([one for _, one in good]) if good else np.empty((0, *self.shape), np.uint8)
                broken = [one for one in found if isinstance(one, Broken)]
                yield torch.tensor([i for i, _ in good], dtype=torch.int64), torch.from_numpy(pixels), broken

    def _read(self, number: int) -> np.ndarray | Broken:
        path, (channels, height, width) = self.paths[number], self.shape
        try:
            return decode_image(path, channels, (height, width), self.value_range, self.share)
        except Exception as error:  # on damaged files Pillow raises nearly anything
            return Broken(path, reason_of(error))
