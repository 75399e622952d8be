"""Other labels for the samples that are trained on, perhaps for those validated on, and what is recorded of them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from gvr_lightning.data.image_set import ImageSet, Splits


class Mislabelling(ABC):
    """Gives samples labels of which some are wrong. Test labels stay as they are."""

    kind: str  # its name in summary.json
    validation: str = "clean"  # "noisy": the held-out labels are wrong likewise

    @abstractmethod
    def __call__(self, targets: Tensor, index: Tensor, classes: Sequence[str]) -> Tensor:
        """Noisy labels, int64 (n,).

        Args:
            targets: the true labels (n,).
            index: the samples' numbers among all training images (n,).
            classes: the names of all C classes.
        """

    def of_validation(self, targets: Tensor, index: Tensor, classes: Sequence[str], own: bool) -> Tensor:
        """Likewise of the samples validated on; ``own``: they are a part of the data set's, with its own numbers."""
        return self(targets, index, classes)

    @abstractmethod
    def told(self) -> dict[str, Any]:
        """What was asked for, for summary.json."""

    def require(self, targets: Tensor, classes: Sequence[str]) -> None:  # noqa: B027 (what is drawn fits any)
        """Raises `UserError` if it does not fit the true labels of all training images (N,), held out or not."""

    def record(self, true: Tensor, noisy: Tensor) -> dict[str, Any]:
        """What it did, for summary.json: what was asked for, what came of it, and a hash of the noisy labels."""
        return {"kind": self.kind, **self.told(), **_counted(true, noisy)}


def mislabelled(splits: Splits, index: Tensor, noise: Mislabelling) -> tuple[Splits, dict[str, Any]]:
    """The same data with noisy labels for the training samples of these numbers, and what the noise did."""
    train = splits.train
    true, classes = train.targets[index], splits.usual_names or splits.classes
    noise.require(train.targets, classes)
    noisy = noise(true, index, classes)
    return replace(splits, train=_with(train, index, noisy)), noise.record(true, noisy)


def mislabelled_validation(
    splits: Splits, index: Tensor, noise: Mislabelling, own: bool
) -> tuple[Splits, dict[str, Any]]:
    """Likewise for those validated on: of the set's ``own`` part, or held out of the training images."""
    part = splits.val if own and splits.val is not None else splits.train
    true = part.targets[index]
    noisy = noise.of_validation(true, index, splits.usual_names or splits.classes, own)
    changed = _with(part, index, noisy)
    told = {"validation": _counted(true, noisy)}
    return (replace(splits, val=changed) if own else replace(splits, train=changed)), told


def _with(part: ImageSet, index: Tensor, labels: Tensor) -> ImageSet:
    targets = part.targets.clone()
    targets[index] = labels
    return ImageSet(part.images, targets)


def _counted(true: Tensor, noisy: Tensor) -> dict[str, Any]:
    wrong = int((noisy != true).sum())
    return {
        "wrong": wrong,
        "of": len(true),
        "actual_rate": wrong / len(true),
        "hash": hashlib.sha256(noisy.numpy().tobytes()).hexdigest(),
    }
