"""What a source of encoded images has to know of them."""

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from gvr_lightning.data.decode import Encoded


class Found(Protocol):
    """Encoded images and their targets: those of training, then of the test, then of validation."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def images(self) -> Sequence[Encoded]:
        """Themselves, in order."""

    @property
    def targets(self) -> np.ndarray:
        """Theirs, int64 (N,)."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many are of training, of the test and of validation."""

    def name(self, number: int) -> str:
        """What ``summary.json`` calls an image that is left out."""

    def stamp(self) -> str:
        """A hash of what the system says of the files, but not of what is in them."""

    def newest(self) -> int:
        """When the last change to a file was, in nanoseconds."""

    def content(self, workers: int | None) -> tuple[str, int]:
        """A hash of all, and the top of the range of images of more than 8 bits, 0 without any."""

    def require_unchanged(self) -> None:
        """Raises `UserError` if the files are others than when they were found."""

    def require_classes(self, broken: Collection[int]) -> None:
        """Raises `UserError` if nothing is left of a class without these images."""
