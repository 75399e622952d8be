"""How the images of batches are got ready ahead of the steps, where they are not just taken from memory."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.data.ahead import AHEAD, ReadAhead, Reading
from gvr_lightning.data.augmentation import Augmentation, PerImage, normalised
from gvr_lightning.data.batch import rows_here
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.data.image_set import Images
from gvr_lightning.data.transform_workers import Transformed, TransformWorkers
from gvr_lightning.distributed.batch import rank_and_size

Augment = Callable[..., list[Tensor]]
Begun = Future[Tensor] | None  # images that are being read, if they are


class TrainingReading:
    """Training images that are got ready ahead of the steps, and how long these have waited for them.

    Args:
        augmentation: what is left to be done with them on the device.
        at_a_time: batches that are got ready side by side.

    Attributes:
        augmentation: likewise.
        waited: seconds that training steps have waited for images.
    """

    def __init__(self, augmentation: Augment, at_a_time: int = 1) -> None:
        self.augmentation, self.waited = augmentation, 0.0
        self._ahead = ReadAhead(at_a_time)

    def training(
        self, batches: Iterator[Tensor], keys: Sequence[int], micro_batches: int, device: torch.device
    ) -> Iterator[Any]:
        """Batches of samples with a view for each key, this process's rows of which are got ready ahead."""

        def read(index: Tensor) -> Tensor:
            mine, _ = rows_here(index, micro_batches, *rank_and_size())
            return self.read_ahead(mine, keys, device.type == "cuda")

        return self._ahead.through(batches, read)

    def trained_on(self, index: Tensor, keys: Sequence[int], begun: Begun) -> Tensor:
        """The images of a training batch, once they are there; of one that nobody has begun, read here and now."""
        since = time.perf_counter()
        found = self.read(index, keys) if begun is None else begun.result()
        self.waited += time.perf_counter() - since
        return found

    def read(self, index: Tensor, keys: Sequence[int], pinned: bool = False) -> Tensor:
        """Images (B, C, H, W), or (V, B, C, H, W) with one for each key."""
        raise NotImplementedError

    def read_ahead(self, index: Tensor, keys: Sequence[int], pinned: bool) -> Tensor:
        """The same, beside a step; pinned for a GPU."""
        return self.read(index, keys, pinned)

    def close(self) -> None:
        """Give back what only training needs."""


class EncodedReading(TrainingReading):
    """Images that stay encoded; a random resized crop is made while decoding.

    Args:
        images: themselves.
        augmentation: of training samples.
    """

    def __init__(self, images: EncodedImages, augmentation: Augment) -> None:
        self.images, self.crop, rest = images, None, augmentation
        self._crop_keys: Callable[[Sequence[int]], Sequence[int]] = list
        if isinstance(augmentation, Augmentation):
            self.crop, rest = augmentation.before_decoding()
            self._crop_keys = augmentation.crop_keys
        super().__init__(rest)

    def read(self, index: Tensor, keys: Sequence[int], pinned: bool = False) -> Tensor:
        """As they are decoded."""
        return self.images.read(index, self.crop, self._crop_keys(keys), pinned)


class TransformReading(TrainingReading):
    """Views that a transform of one's own has made, as bytes or floats that are not normalised yet.

    Args:
        images: of the training samples.
        transform: of one image.
        workers: processes, that make them ahead; 0 for none; None for one a core.
    """

    def __init__(self, images: Images, transform: PerImage, workers: int | None) -> None:
        super().__init__(normalised, AHEAD + 1)  # as many as are begun
        self._made, self._wanted = Transformed(images, transform), workers
        self._workers: TransformWorkers | None = None

    def training(self, batches: Iterator[Tensor], *settings: Any) -> Iterator[Any]:
        """Likewise; without processes a batch is made when the step asks for it."""
        if self._wanted == 0:
            return batches
        since = time.perf_counter()
        self._workers = self._workers or TransformWorkers(self._made, self._wanted)
        self.waited += time.perf_counter() - since
        return super().training(batches, *settings)

    def read(self, index: Tensor, keys: Sequence[int], pinned: bool = False) -> Tensor:
        """In the process that asks."""
        return self._made(index, keys)

    def read_ahead(self, index: Tensor, keys: Sequence[int], pinned: bool) -> Tensor:
        """In the others."""
        assert self._workers is not None
        return self._workers(index, keys, pinned)

    def close(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None


def reading_of(images: Images, augmentation: Augment, transform_workers: int | None) -> TrainingReading | None:
    """Who gets training images ready; None: they are taken from memory."""
    if isinstance(augmentation, PerImage):
        return TransformReading(images, augmentation, transform_workers)
    return EncodedReading(images, augmentation) if isinstance(images, EncodedImages) else None


def evaluated(batches: Iterator[Tensor], images: EncodedImages, device: torch.device) -> Iterator[Reading]:
    """Batches of samples as they are, this process's rows of which are read ahead."""

    def read(index: Tensor) -> Tensor:
        mine, _ = rows_here(index, 1, *rank_and_size())
        return images.read(mine, pinned=device.type == "cuda")

    return ReadAhead().through(batches, read)


def numbers_of(batch: Any) -> tuple[Tensor, Begun]:
    """The sample numbers of a batch, and its images where they are being read."""
    return batch if isinstance(batch, Reading) else (batch, None)
