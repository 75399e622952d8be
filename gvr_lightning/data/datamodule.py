"""The LightningDataModule that yields the views.

Its loaders hand out the sample numbers of global batches only; batch_maker.py makes (views, target) of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from gvr_lightning.data.batch import Batch, rows_here
from gvr_lightning.data.batch_maker import CORRUPT, ORDER, PLAIN, BatchMaker, Change
from gvr_lightning.data.corruptions.corrupt import corrupted
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.data.image_set import Images, ImageSet, Splits, held_out, require_whole
from gvr_lightning.data.index_loader import IndexLoader
from gvr_lightning.data.keep import DECODED, ENCODED
from gvr_lightning.data.mislabelling import Mislabelling, mislabelled, mislabelled_validation
from gvr_lightning.data.mixing import Mixing
from gvr_lightning.data.moments import kept_moments
from gvr_lightning.data.reading import TrainingReading, evaluated, reading_of
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.errors import UserError
from gvr_lightning.random import hash_key, permutation


class ViewsDataModule(LightningDataModule):
    """Train, validation and test images as batches of augmented views.

    The validation part is the data set's own, or held out of the training images, by a draw that does not depend on the
    seed; the test images are touched by ``trainer.test`` alone.

    Args:
        source: () -> :class:`Splits`.
        augmentation: (images, mean, std, index, keys) -> views, for training.
        views: how many a training sample yields.
        batch_size: samples a training step, of all processes together.
        seed: of the order, the augmentation and the subsets.
        val_fraction: of the training images, held out, where the set has no validation part; 0: no validation.
        max_train: train on that many of the rest only, None for all.
        subset_seed: of the choice of both; None: always the same.
        mean: of each channel in [0, 1], or one for all; None: that of the training images.
        std: likewise.
        eval_augmentation: the same interface, for validation and test; None: normalisation only.
        eval_batch_size: samples a validation or test step.
        on_device: keep all images on the training device.
        label_noise: (true labels, sample numbers, class names) -> labels, of the samples trained on; None for the true.
        mixing: of training samples and their labels, pair by pair; None for none.
        corruptions: kinds of them that test images are also scored under.
        transform_workers: processes for a :class:`.PerImage` augmentation; 0: the step's own; None: one a core.
    """

    def __init__(
        self,
        source: Callable[[], Splits],
        augmentation: Callable[..., list[Tensor]],
        views: int = 1,
        batch_size: int = 128,
        seed: int = 0,
        val_fraction: float = 0.1,
        max_train: int | None = None,
        subset_seed: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        eval_augmentation: Callable[..., list[Tensor]] | None = None,
        eval_batch_size: int = 500,
        on_device: bool = True,
        label_noise: Mislabelling | None = None,
        mixing: Mixing | None = None,
        corruptions: Sequence[str] = (),
        transform_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.source, self.augmentation, self.eval_augmentation = source, augmentation, eval_augmentation
        self.views, self.batch_size, self.eval_batch_size, self.seed = views, batch_size, eval_batch_size, seed
        self.val_fraction, self.max_train, self.on_device = val_fraction, max_train, on_device
        self.subset_seed, self.transform_workers = subset_seed, transform_workers
        self.label_noise, self.mixing, self.corruptions = label_noise, mixing, corruptions
        self._mean_std = (mean, std)
        self.splits: Splits | None = None
        self.reading: TrainingReading | None = None  # None: training images are taken from memory

    def setup(self, stage: str | None = None) -> None:
        """Read the images, once, and hold the validation part out.

        Raises:
            UserError: for too few images.
        """
        if self.splits is not None:
            return
        self.splits = require_whole(self.source())
        train, test = self.splits.train, self.splits.test
        n = len(train.targets)
        fraction = 0.0 if self.validates_own else self.val_fraction
        self.train_index, self.val_index = held_out(n, fraction, self.max_train, self.subset_seed)
        if self.validates_own:
            self.val_index = torch.arange(len(self._validated.targets))
        self.test_index = torch.arange(len(test.targets))
        self.num_classes = len(self.splits.classes)
        self.noise_record: dict[str, Any] | None = None  # what the label noise did, for summary.json
        if self.label_noise is not None:
            self.splits, self.noise_record = mislabelled(self.splits, self.train_index, self.label_noise)
            if self.label_noise.validation == "noisy" and len(self.val_index):
                further = (self.val_index, self.label_noise, self.validates_own)
                self.splits, record = mislabelled_validation(self.splits, *further)
                self.noise_record |= record
        mean, std = self._mean_std
        channels = train.images.shape[1]
        moments = ((), ()) if mean and std else kept_moments(self.splits, self.train_index)
        moments = (torch.as_tensor(mean or moments[0]), torch.as_tensor(std or moments[1]))
        if not set(map(len, moments)) <= {1, channels}:
            raise UserError(f"data.mean and data.std must have one entry for each of the {channels} channels, or one")
        self.reading = reading_of(train.images, self.augmentation, self.transform_workers)
        self.batches = BatchMaker(
            train=self.splits.train,
            true_targets=None if self.noise_record is None else train.targets,
            num_classes=self.num_classes,
            moments=moments,
            augmentation=self.augmentation,
            eval_augmentation=self.eval_augmentation,
            reading=self.reading,
            mixing=self.mixing,
            views=self.views,
            seed=self.seed,
            on_device=self.on_device,
        )
        one = self.train_index[:1]
        self.image_shape: tuple[int, ...] = tuple(self.batches.augmented(one, one, 0)[0].shape[1:])

    def train_dataloader(self) -> IndexLoader:
        """All training samples in the epoch's own order."""

        def order() -> Tensor:
            key = hash_key(ORDER, self.seed, self._trainer.current_epoch)
            return self.train_index[permutation(key, len(self.train_index))]

        def start() -> int:
            ready: int = self._trainer.fit_loop.epoch_loop.batch_progress.current.ready
            return ready

        ahead = None if self.reading is None else self._read_ahead
        return IndexLoader(order, len(self.train_index), self.batch_size, start, ahead)

    def _read_ahead(self, batches: Iterator[Tensor]) -> Iterator[Any]:
        """Of the epoch in which the first is wanted the batches, which are read in the background."""
        module, keys = self._trainer.lightning_module, self.batches.keys(self._trainer.current_epoch)
        assert self.reading is not None
        yield from self.reading.training(batches, keys, module.accumulate, module.device)

    def teardown(self, stage: str) -> None:
        """End what only training needs."""
        if self.reading is not None:
            self.reading.close()

    def on_exception(self, exception: BaseException) -> None:
        """Likewise."""
        self.teardown("fit")

    def val_dataloader(self) -> IndexLoader | list[Any]:
        """The validation samples, in order; nothing without any."""
        return self._in_order(self.val_index, self._validated) if len(self.val_index) else []

    def test_dataloader(self) -> IndexLoader:
        """The test samples, in order."""
        return self._in_order(self.test_index, self._splits.test)

    def as_they_are(self, most: int) -> Iterator[Tensor]:
        """Training images as validation sees them, in up to so many whole batches, drawn by the seed; the rows here."""
        self.batches.device, (rank, processes) = self._trainer.lightning_module.device, rank_and_size()
        order = self.train_index[permutation(hash_key(PLAIN, self.seed), len(self.train_index))]
        size = min(self.batch_size, len(order)) // processes * processes
        whole = len(order) // size if size > processes else 0  # BatchNorm takes no single row
        for batch in order.split(size or 1)[: min(most, whole)]:
            mine, _ = rows_here(batch, 1, rank, processes)
            yield self.batches.as_it_is(mine, self._splits.train).views[0]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Sample numbers stay here: what is drawn for them is drawn on the CPU, the same for every device."""
        self.batches.device = device
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Sample numbers (B,) of a global batch to this process's part of it, on the training device."""
        if self._trainer.training:
            return self.batches.training(batch, self._trainer.current_epoch, self._trainer.lightning_module.accumulate)
        return self.batches.evaluation(batch, self._splits.test if self._trainer.testing else self._validated)

    def held_out(self, device: torch.device) -> Iterator[Batch]:
        """The validation images as the test has its own: this process's part of each batch, on a device."""
        self.batches.device = device
        for batch in self.val_dataloader():
            yield self.batches.evaluation(batch, self._validated)

    def tested(self, device: torch.device, change: Change = None) -> Iterator[Batch]:
        """The test images likewise, outside of a test; ``change(images, numbers)`` is of the bytes."""
        self.batches.device = device
        for batch in self.test_dataloader():
            yield self.batches.evaluation(batch, self._splits.test, change)

    def corrupted(self, device: torch.device, kind: str, severity: int) -> Iterator[Batch]:
        """The test images under a corruption."""
        key = hash_key(CORRUPT, self.seed)
        return self.tested(device, lambda images, index: corrupted(images, index, kind, severity, key))

    def _in_order(self, index: Tensor, images_of: ImageSet) -> IndexLoader:
        images = images_of.images
        ahead = (
            (lambda batches: evaluated(batches, images, self.batches.device))
            if isinstance(images, EncodedImages)
            else None
        )
        return IndexLoader(lambda: index, len(index), self.eval_batch_size, lambda: 0, ahead)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data."""
        return {
            "data_hash": self.data_hash,
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "classes": list(self._splits.classes),
            "keep": self.keep,
            "source_shape": list(self._splits.train.images.shape[1:]),
            "value_range": list(self._splits.value_range or ()) or None,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "label_noise": self.noise_record,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other images.

        Raises:
            UserError: if the data set's content or the noisy labels have changed.
        """
        kept = state_dict.get("keep", DECODED)  # before there was a choice
        if kept != self.keep:
            raise UserError(f"this run was started with images that are {kept}: set data.keep={kept}")
        if state_dict["data_hash"] != self.data_hash:
            raise UserError("the data set is not the one that this run was started with: its content differs")
        if state_dict.get("label_noise") != self.noise_record:
            raise UserError("the noisy labels are not those that this run was started with: label_noise differs")

    @property
    def train_images(self) -> Images:
        """The official training images as they are, uint8 (N, C, H, W), the validation part among them."""
        return self._splits.train.images

    @property
    def test_images(self) -> Images:
        """The test images as they are, uint8 (N, C, H, W)."""
        return self._splits.test.images

    @property
    def mean(self) -> Tensor:
        """What is subtracted from images in [0, 1], by channel."""
        return self.batches.mean

    @property
    def std(self) -> Tensor:
        """What they are then divided by."""
        return self.batches.std

    @property
    def sizes(self) -> dict[str, int]:
        """How many images each part has."""
        return {"train": len(self.train_index), "val": len(self.val_index), "test": len(self.test_index)}

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by number."""
        return self._splits.classes

    @property
    def data_hash(self) -> str:
        """The sha256 of the data set's content."""
        return self._splits.hash

    @property
    def keep(self) -> str:
        """Whether the images are decoded, or stay encoded."""
        return ENCODED if isinstance(self.train_images, EncodedImages) else DECODED

    @property
    def left_out(self) -> tuple[str, ...]:
        """Files of the data set that are broken."""
        return self._splits.left_out

    @property
    def validates_own(self) -> bool:
        """Whether the set's own validation part is validated on, and nothing held out of the training images."""
        return bool(self.val_fraction) and self._splits.val is not None

    @property
    def _validated(self) -> ImageSet:
        """What validation's sample numbers are of."""
        own = self._splits.val
        return own if own is not None and self.val_fraction else self._splits.train

    @property
    def _splits(self) -> Splits:
        assert self.splits is not None, "setup() comes first"
        return self.splits

    @property
    def _trainer(self) -> Any:
        return self.trainer
