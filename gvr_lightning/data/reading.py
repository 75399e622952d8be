"""How the batches of a set that stays encoded are read: ahead of the steps, with the crop made while decoding."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.data.ahead import ReadAhead, Reading
from gvr_lightning.data.augmentation import Augmentation
from gvr_lightning.data.batch import rows_here
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.distributed.batch import rank_and_size


class EncodedReading:
    """What the data module has where its images stay encoded.

    Args:
        augmentation: of training samples; a random resized crop of it is made while decoding.

    Attributes:
        augmentation: what is left of it.
        waited: seconds that training steps have waited for images.
    """

    def __init__(self, augmentation: Callable[..., list[Tensor]]) -> None:
        self.crop, self.augmentation = None, augmentation
        self._crop_keys: Callable[[Sequence[int]], Sequence[int]] = list
        if isinstance(augmentation, Augmentation):
            self.crop, self.augmentation = augmentation.before_decoding()
            self._crop_keys = augmentation.crop_keys
        self.waited = 0.0
        self._ahead = ReadAhead()

    def training(
        self,
        batches: Iterator[Tensor],
        images: EncodedImages,
        keys: Sequence[int],
        micro_batches: int,
        device: torch.device,
    ) -> Iterator[Reading]:
        """Batches of training samples, with a view for each key."""

        def read(index: Tensor) -> Tensor:
            mine, _ = rows_here(index, micro_batches, *rank_and_size())
            return self._read(images, mine, keys, device.type == "cuda")

        return self._ahead.through(batches, read)

    def evaluation(self, batches: Iterator[Tensor], images: EncodedImages, device: torch.device) -> Iterator[Reading]:
        """Batches of samples as they are."""

        def read(index: Tensor) -> Tensor:
            mine, _ = rows_here(index, 1, *rank_and_size())
            return images.read(mine, pinned=device.type == "cuda")

        return self._ahead.through(batches, read)

    def trained_on(
        self, images: EncodedImages, index: Tensor, keys: Sequence[int], begun: "Future[Tensor] | None"
    ) -> Tensor:
        """The images of a training batch, once they are there."""
        since = time.perf_counter()
        found = self._read(images, index, keys) if begun is None else begun.result()
        self.waited += time.perf_counter() - since
        return found

    def _read(self, images: EncodedImages, index: Tensor, keys: Sequence[int], pinned: bool = False) -> Tensor:
        return images.read(index, self.crop, self._crop_keys(keys), pinned)


def numbers_of(batch: Any) -> tuple[Tensor, "Future[Tensor] | None"]:
    """The sample numbers of a batch, and its images where they are being read."""
    return batch if isinstance(batch, Reading) else (batch, None)
