"""The way of a batch: sample numbers of a global batch become this process's part of it, on its device.

What it holds is a pure function of (seed, epoch, sample, view).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.data.augmentation import normalise
from gvr_lightning.data.batch import Batch, rows_here
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.data.image_set import Images, ImageSet
from gvr_lightning.data.mixing import Mixing, mixed
from gvr_lightning.data.reading import Augment, Begun, TrainingReading, numbers_of
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.methods.upload import upload
from gvr_lightning.random import hash_key, uniform

ORDER, VIEW, SUBSET, PLAIN, MIX, CORRUPT = range(6)  # what a random number is for, so that no two uses share one

Change = Callable[[Tensor, Tensor], Tensor] | None  # (images, their numbers) -> images


class BatchMaker:
    """Makes batches of a data set's samples.

    Args:
        train: the training images.
        true_targets: their labels before label noise; None without any.
        num_classes: of them.
        moments: mean and standard deviation of each channel, or one for all, of images in [0, 1].
        augmentation: of training samples: (images, mean, std, index, keys) -> views.
        eval_augmentation: the same for others; None: normalisation only.
        reading: who gets training images ready; None: they are taken from memory.
        mixing: of training samples and their labels, pair by pair; None for none.
        views: of a training sample.
        seed: of the views, the subsets and the mixing.
        on_device: keep all images there.

    Attributes:
        device: where batches go.
    """

    def __init__(
        self,
        train: ImageSet,
        true_targets: Tensor | None,
        num_classes: int,
        moments: tuple[Tensor, Tensor],
        augmentation: Augment,
        eval_augmentation: Augment | None,
        reading: TrainingReading | None,
        mixing: Mixing | None,
        views: int,
        seed: int,
        on_device: bool,
    ) -> None:
        self.train, self.true_targets, self.num_classes = train, true_targets, num_classes
        self.mean, self.std = moments
        self.augmentation, self.eval_augmentation = augmentation, eval_augmentation
        self.reading, self.mixing = reading, mixing
        self.views, self.seed, self.on_device = views, seed, on_device
        self.device = torch.device("cpu")
        self._device_images: dict[int, Tensor] = {}

    def training(self, numbers: Any, epoch: int, micro_batches: int = 1) -> Batch:
        """Of a batch of training samples this process's part."""
        index, begun = numbers_of(numbers)
        mine, shards = rows_here(index, micro_batches, *rank_and_size())
        at, target, *true = self._at(mine, self._labels)
        views = self.augmented(mine, at, epoch, begun)
        # of all rows on every process: a subset is drawn from the global batch without a word between them
        subset_keys = uniform(hash_key(SUBSET, self.seed, epoch), index, self.views)
        batch = Batch(views, target, mine, subset_keys, shards, *true)
        return batch if self.mixing is None else self._mixed(batch, self.mixing, index, epoch, micro_batches)

    def _mixed(self, batch: Batch, mixing: Mixing, index: Tensor, epoch: int, micro_batches: int) -> Batch:
        """Each sample with its partner; the views of another process's are made here, too."""
        here, _ = rows_here(torch.arange(len(index)), micro_batches, *rank_and_size())
        keys = [hash_key(MIX, self.seed, epoch, view) for view in range(self.views if mixing.independent else 1)]
        pairs = [mixing.pairs(key, index, here, tuple(batch.views[0].shape[2:]), self.device) for key in keys]

        def partners(rows: Tensor) -> Batch:
            if len(here) == len(index):
                at = upload(rows, self.device)
                true = None if batch.true is None else batch.true[at]
                return Batch([view[at] for view in batch.views], batch.target[at], index[rows], true=true)
            at, target, *those = self._at(index[rows], self._labels)
            return Batch(self.augmented(index[rows], at, epoch), target, index[rows], true=next(iter(those), None))

        return mixed(batch, pairs, partners, self.num_classes)

    @property
    def _labels(self) -> list[Tensor]:
        """Of all training images: those trained on, and where there is label noise those before it."""
        return [self.train.targets, *([] if self.true_targets is None else [self.true_targets])]

    def _at(self, index: Tensor, labels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Sample numbers and their labels, on the device by one copy."""
        return upload(torch.stack([index, *(some[index] for some in labels)]), self.device).unbind()

    def keys(self, epoch: int) -> list[int]:
        """One for each view; a view is a pure function of (image, sample number, key)."""
        return [hash_key(VIEW, self.seed, epoch, view) for view in range(self.views)]

    def augmented(self, index: Tensor, at: Tensor, epoch: int, begun: Begun = None) -> list[Tensor]:
        """A view of training samples for each key."""
        keys = self.keys(epoch)
        if self.reading is None:
            return self._through(self.augmentation, self._take(self.train.images, index, at), index, at, keys)
        found = self._take(self.reading.trained_on(index, keys, begun), None, at)
        return self._through(self.reading.augmentation, found, index, at, keys)

    def evaluation(self, numbers: Any, images_of: ImageSet, change: Change = None) -> Batch:
        """Of a batch of validation or test samples this process's part; ``change`` is of the bytes."""
        index, begun = numbers_of(numbers)
        mine, _ = rows_here(index, 1, *rank_and_size())
        return self.as_it_is(mine, images_of, begun, change)

    def as_it_is(self, index: Tensor, images_of: ImageSet, begun: Begun = None, change: Change = None) -> Batch:
        """Samples of this process as validation sees them."""
        at, target = self._at(index, [images_of.targets])
        images = self._take(images_of.images, index, at) if begun is None else self._take(begun.result(), None, at)
        images = images if change is None else change(images, index)
        if self.eval_augmentation is not None:
            return Batch(self._through(self.eval_augmentation, images, index, at, [0]), target, index)
        return Batch([normalise(images, self.mean, self.std)], target, index)

    def _through(
        self, augmentation: Callable[..., list[Tensor]], images: Tensor, index: Tensor, at: Tensor, keys: list[int]
    ) -> list[Tensor]:
        return augmentation(
            images, self.mean, self.std, index if getattr(augmentation, "draws_here", False) else at, keys
        )

    def _take(self, images: Images, index: Tensor | None, at: Tensor) -> Tensor:
        """Some images of a set, or all of what has been read, on the device.

        The whole set stays there if it may, the moments always.
        """
        if self.mean.device != self.device:
            self.mean, self.std = self.mean.to(self.device), self.std.to(self.device)
        if index is None or isinstance(images, EncodedImages) or self.device.type == "cpu" or not self.on_device:
            return upload(images[slice(None) if index is None else index], self.device)
        if id(images) not in self._device_images:
            self._device_images[id(images)] = images.to(self.device)
        return self._device_images[id(images)][at]
