"""Mean and standard deviation of the training images' channels, worked out once and kept in the cache."""

import hashlib
from contextlib import suppress

import torch
from torch import Tensor

from gvr_lightning.data.decode import counted
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.data.image_set import Splits, channel_moments
from gvr_lightning.random import hash_key, permutation

MOST = 10_000  # of encoded images, which would have to be decoded
DRAWN = 5  # what a random number is for; data/datamodule.py has the others
NUMBERS = r"[0-9.e+ -]+"


def kept_moments(splits: Splits, index: Tensor) -> tuple[Tensor, Tensor]:
    """Of the training images of these numbers, or of ``MOST`` of them if they stay encoded, drawn once for all."""
    images, cache, few = splits.train.images, splits.cache, index
    encoded = isinstance(images, EncodedImages)
    if encoded and len(index) > MOST:
        few = index[permutation(hash_key(DRAWN), len(index))[:MOST].sort().values]
    digest = hashlib.sha256(splits.hash.encode() + few.numpy().tobytes()).hexdigest()
    kept = None if cache is None else cache.recall(f"{digest}-moments", NUMBERS)
    with suppress(ValueError):  # of a line that is no numbers, or not so many
        mean, std = torch.tensor([float(text) for text in (kept or "").split()]).chunk(2)
        if mean.shape == std.shape == images.shape[1:2]:
            return mean, std
    if encoded:
        with counted("mean and standard deviation of", len(few)) as advance:
            mean, std = channel_moments(images, few, 256, advance)
    else:
        mean, std = channel_moments(images, few)
    if cache is not None:
        cache.remember(f"{digest}-moments", " ".join(map(repr, [*mean.tolist(), *std.tolist()])))
    return mean, std
