"""The handwritten digits that come with scikit-learn: real data without a download."""

import numpy as np

from gvr_lightning.data.image_set import Splits, content_hash, divide

SPLIT_SEED = 0  # part of the data set: another seed is another test set
TEST_EVERY = 5  # 360 of the 1,797


class Digits:
    """1,797 grey digits of 8x8 pixels, in 1,437 for training and 360 for testing.

    The test part is the same everywhere: the samples are shuffled with seed 0, sorted by class, and every fifth one is
    taken, so each class gives a fifth of its samples to within one.
    """

    def __call__(self) -> Splits:
        """Read the digits: images (N, 1, 8, 8), the 17 grey levels spread over 0..255."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        targets = digits.target.astype(np.int64)
        # RandomState's stream is frozen, that of numpy's newer generators is not.
        order = np.random.RandomState(SPLIT_SEED).permutation(len(targets))
        train, test = divide(images, targets, order, TEST_EVERY)
        return Splits(train, test, tuple(str(name) for name in digits.target_names), content_hash(train, test))
