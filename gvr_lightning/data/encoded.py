"""Images that stay encoded on disk, and are decoded in threads whenever they are asked for."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from gvr_lightning.data.augmentation import draws_of
from gvr_lightning.data.broken import REPLACE, Broken, broken_line, reason_of
from gvr_lightning.data.crops import Box, decode_crops
from gvr_lightning.data.decode import Encoded, decode_image, share_of_cores
from gvr_lightning.data.depth import Range
from gvr_lightning.data.transforms.resample import ResizedCrop
from gvr_lightning.errors import UserError


class EncodedImages:
    """What stands in for a tensor (N, C, H, W) of images that would be too large.

    As many images are decoded at a time as there are workers; nothing of them is kept.

    Args:
        images: themselves.
        channels: 1 or 3.
        size: (H, W) that they are brought to.
        share: of the sides of what covers this size, that the centre crop keeps.
        value_range: of images of more than 8 bits.
        workers: threads; None for one a core, the cores being shared by a machine's processes.
    """

    dtype = torch.uint8

    def __init__(
        self,
        images: Sequence[Encoded],
        channels: int,
        size: tuple[int, int],
        share: float = 1.0,
        value_range: Range | None = None,
        workers: int | None = None,
    ) -> None:
        self.images, self.share, self.value_range, self.workers = images, share, value_range, workers
        self.shape = torch.Size((len(images), channels, *size))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The centres of some images: uint8 (n, C, H, W), as :func:`.decode.decode_image` has them."""
        return self.read(torch.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows)

    def read(
        self, index: Tensor, crop: ResizedCrop | None = None, keys: Sequence[int] = (), pinned: bool = False
    ) -> Tensor:
        """Some images, uint8: their centres (B, C, H, W), or with a crop (V, B, C, H, W).

        The boxes are drawn as the same crop of decoded images draws its own, each from (key, number) alone.

        Args:
            index: (B,), their numbers.
            crop: random resized crop.
            keys: one a view, all of which are cut out of one decoded image.
            pinned: whether a GPU will fetch them.

        Raises:
            UserError: naming the images that cannot be decoded.
        """
        numbers, lead = index.tolist(), () if crop is None else (len(keys),)
        out = torch.empty((*lead, len(numbers), *self.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        draws = [] if crop is None else draws_of(crop, keys, index).permute(2, 1, 0).tolist()  # (B, V, draws)

        def decode(row: int) -> Broken | None:
            encoded = self.images[numbers[row]]
            try:
                if crop is None:
                    out[row] = torch.from_numpy(self._centre(encoded))
                else:
                    decode_crops(encoded, partial(_boxes, crop, draws[row]), out[:, row], self.value_range)
            except Exception as error:  # on damaged files Pillow raises nearly anything
                return Broken(encoded, reason_of(error))
            return None

        if broken := [one for one in self._pool.map(decode, range(len(numbers))) if one is not None]:
            raise UserError(broken_line(broken, REPLACE))
        return out

    def alone(self) -> "EncodedImages":
        """The same images, read by a thread of their own: for one of many processes."""
        channels, height, width = self.shape[1:]
        return EncodedImages(self.images, channels, (height, width), self.share, self.value_range, 1)

    def _centre(self, encoded: Encoded) -> np.ndarray:
        pixels = decode_image(encoded, self.shape[1], self.shape[2:], self.value_range, self.share)
        return np.array(pixels)  # torch takes none that it may not write to

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Made where it is used: a process that is forked has no threads of its parent's."""
        return ThreadPoolExecutor(self.workers or share_of_cores(), thread_name_prefix="decode")


def _boxes(crop: ResizedCrop, draws: Sequence[Sequence[float]], size: tuple[int, int]) -> list[Box]:
    return [crop.box(u, size) for u in draws]
