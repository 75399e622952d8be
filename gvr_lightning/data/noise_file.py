"""Labels from a file, such as those that people gave CIFAR's images (Wei et al. 2022, CIFAR-10N and CIFAR-100N)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.data.label_columns import TRUE, read_labels
from gvr_lightning.data.mislabelling import Mislabelling
from gvr_lightning.errors import UserError


class FromFile(Mislabelling):
    """The labels of a file, one for each training image of the data set, in the order of the data set's own files.

    Args:
        path: of a .pt, .npy or .csv file.
        labels: which of its several columns; None: the only one beside the true labels, which are called clean_label.
        validation: "clean", or "noisy": the labels of held-out training images are the file's, too.

    Raises:
        UserError: for a file that cannot be read or has no such labels.
    """

    kind = "file"

    def __init__(self, path: str | Path, labels: str | None = None, validation: str = "clean") -> None:
        self.validation = validation
        self.path = Path(path).expanduser().absolute()
        self.columns = read_labels(self.path)
        noisy = [name for name in self.columns if name != TRUE]
        if labels is not None and labels not in self.columns:
            raise UserError(
                f"label_noise.labels={labels}: {self.path} has {', '.join(self.columns)}: set it to one of them"
            )
        if labels is None and len(noisy) != 1:
            known = ", ".join(noisy) or f"{TRUE} alone"
            raise UserError(f"label_noise.labels: {self.path} has {known}: set it to the one that is wanted")
        self.labels = labels or noisy[0]

    def __call__(self, targets: Tensor, index: Tensor, classes: Sequence[str]) -> Tensor:
        """The file's labels of these samples."""
        return self._numbers(self.labels, classes)[index]

    def of_validation(self, targets: Tensor, index: Tensor, classes: Sequence[str], own: bool) -> Tensor:
        """Likewise, of training images that are held out.

        Raises:
            UserError: where the data set has a validation part of its own, which the file has no labels of.
        """
        if own:
            known = "the file has labels of the training images, and the data set has a validation part of its own"
            raise UserError(f"label_noise.validation=noisy: {known}; leave it out")
        return self(targets, index, classes)

    def told(self) -> dict[str, Any]:
        """The file's name, wherever it lies, and its column."""
        return {"file": self.path.name, "labels": self.labels}

    def require(self, targets: Tensor, classes: Sequence[str]) -> None:
        """Raises `UserError` for labels that are too few, too many, no classes, or of images in another order."""
        given = self._numbers(self.labels, classes)
        if len(given) != len(targets):
            raise UserError(f"{self._what(self.labels)} has {len(given):,} labels for {len(targets):,} training images")
        outside = ((given < 0) | (given >= len(classes))).nonzero().flatten()
        if len(outside):
            i = int(outside[0])
            complaint = f"label {i} is {int(given[i])}, where {len(classes)} classes are 0 to {len(classes) - 1}"
            raise UserError(f"{self._what(self.labels)}: {complaint}")
        if TRUE in self.columns:
            true = self._numbers(TRUE, classes)
            others = len(targets) if len(true) != len(targets) else int((true != targets).sum())
            if others:
                order = "it is of another data set, or in another order than its files"
                raise UserError(f"{self._what(TRUE)} is not the training images' label {others:,} times: {order}")

    def _what(self, labels: str) -> str:
        return f"label_noise.path={self.path}: {labels}"

    def _numbers(self, labels: str, classes: Sequence[str]) -> Tensor:
        """A column's labels as classes' numbers, which are their own or their names'."""
        column = self.columns[labels]
        if isinstance(column, Tensor):
            return column
        numbers = {name: i for i, name in enumerate(classes)}
        found = [numbers.get(name, int(name) if name.isdecimal() else None) for name in column]
        if None in found:
            i = found.index(None)
            raise UserError(f"{self._what(labels)}: label {i}, {column[i]!r}, is neither a class nor the number of one")
        return torch.tensor(found, dtype=torch.int64)
