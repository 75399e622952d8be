"""Other labels for the samples that are trained on, and what is recorded of them. Validation and test keep theirs."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from gvr_lightning.data.image_set import ImageSet, Splits


class Mislabelling(ABC):
    """Gives samples labels of which some are wrong."""

    kind: str  # its name in summary.json

    @abstractmethod
    def __call__(self, targets: Tensor, index: Tensor, classes: Sequence[str]) -> Tensor:
        """Noisy labels, int64 (n,).

        Args:
            targets: the true labels (n,).
            index: the samples' numbers among all training images (n,).
            classes: the names of all C classes.
        """

    @abstractmethod
    def told(self) -> dict[str, Any]:
        """What was asked for, for summary.json."""

    def require(self, targets: Tensor, classes: Sequence[str]) -> None:  # noqa: B027 (what is drawn fits any)
        """Raises `UserError` if it does not fit the true labels of all training images (N,), held out or not."""

    def record(self, true: Tensor, noisy: Tensor) -> dict[str, Any]:
        """What it did, for summary.json: what was asked for, what came of it, and a hash of the noisy labels."""
        wrong = int((noisy != true).sum())
        return {
            "kind": self.kind,
            **self.told(),
            "wrong": wrong,
            "of": len(true),
            "actual_rate": wrong / len(true),
            "hash": hashlib.sha256(noisy.numpy().tobytes()).hexdigest(),
        }


def mislabelled(splits: Splits, index: Tensor, noise: Mislabelling) -> tuple[Splits, dict[str, Any]]:
    """The same data with noisy labels for the training samples of these numbers, and what the noise did."""
    train = splits.train
    true, classes = train.targets[index], splits.usual_names or splits.classes
    noise.require(train.targets, classes)
    noisy = noise(true, index, classes)
    targets = train.targets.clone()
    targets[index] = noisy
    return replace(splits, train=ImageSet(train.images, targets)), noise.record(true, noisy)
