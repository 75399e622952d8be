"""The handwritten digits that come with scikit-learn: real data without a download."""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gvr_lightning.data.image_set import Splits, content_hash, divide

SPLIT_SEED = 0  # part of the data set: another seed is another test set
TEST_EVERY = 5  # 360 of the 1,797
FILE = "sklearn/datasets/data/digits.csv.gz"  # a line an image: 64 pixels of 0..16, and the digit


class Digits:
    """1,797 grey digits of 8x8 pixels, in 1,437 for training and 360 for testing.

    The test part is the same everywhere: the samples are shuffled with seed 0, sorted by class, and every fifth one is
    taken, so each class gives a fifth of its samples to within one.
    """

    def __call__(self) -> Splits:
        """Read the digits: images (N, 1, 8, 8), the 17 grey levels spread over 0..255."""
        lines = _lines()
        images = np.round(lines[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)[:, None]
        targets = lines[:, -1].astype(np.int64)
        # RandomState's stream is frozen, that of numpy's newer generators is not.
        order = np.random.RandomState(SPLIT_SEED).permutation(len(targets))
        train, test = divide(images, targets, order, TEST_EVERY)
        return Splits(train, test, tuple(str(digit) for digit in range(10)), content_hash(train, test))


@cache  # several runs in one process
def _lines() -> NDArray[Any]:
    """What scikit-learn's own function reads, without its 600 modules, which take as long to load as torch."""
    path = Path(str(distribution("scikit-learn").locate_file(FILE)))
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits  # a release that keeps it elsewhere

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
