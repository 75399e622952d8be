"""Images in one folder a class, decoded once and then read from a cache."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch

from gvr_lightning.data.cache import Cache
from gvr_lightning.data.cache_entry import Arrays
from gvr_lightning.data.decode import decode_all, first_readable
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.data.listing import Listing, list_images
from gvr_lightning.errors import UserError

FORMAT = 1  # of the decoded arrays; a change to it decodes anew
SETTLED_NS = 2 * 10**9  # the tick of the coarsest file systems' clocks


class ImageFolder:
    """``root/train/<class>/**`` and ``root/test/<class>/**``, decoded to uint8 (N, ``channels``, H, W).

    With ``image_size`` the shorter side is resized to it and the centre cut out, without it all images must be of one
    size. The decoded images are kept in ``cache_dir`` (by default the user's cache folder) under a hash of the files'
    contents; ``workers`` threads decode (by default one a core).
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | None = None,
        channels: int = 3,
        cache_dir: str | None = None,
        workers: int | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"data.channels={channels}: 1 (grey) or 3 (colour)")
        for name, value in (("image_size", image_size), ("workers", workers)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"data.{name}={value}: a whole number from 1 on, or null")
        self.root = Path(root).expanduser().absolute()
        self.image_size = image_size
        self.channels = channels
        self.cache_dir = cache_dir
        self.workers = workers

    def __call__(self) -> Splits:
        """Read the images, from the cache where it has them, as a memory map.

        Raises `UserError` for a folder or class that is missing or empty, for images that cannot be decoded or differ
        in size, and for files that change meanwhile.
        """
        started = time.time_ns()
        listing = list_images(self.root)
        stamp = listing.stamp()
        cache = Cache(self.cache_dir)
        known = cache.recall(stamp)
        content = known or listing.content(self.workers)
        settings = [FORMAT, content, self.image_size, self.channels]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        images, targets = cache.load(key) or self._decode(listing, cache, key)
        # A file written just now may change again within the same tick: its time says nothing yet.
        if known is None and listing.newest() < started - SETTLED_NS:
            cache.remember(stamp, content)
        train, test = (
            ImageSet(torch.from_numpy(images[part]), torch.from_numpy(targets[part]))
            for part in (slice(listing.num_train), slice(listing.num_train, None))
        )
        return Splits(train, test, listing.classes, key)

    def _decode(self, listing: Listing, cache: Cache, key: str) -> Arrays:
        """Decode into the cache, or into memory if that cannot be."""
        paths = listing.paths()
        size = (self.image_size,) * 2 if self.image_size else first_readable(paths, self.channels)[1][1:]
        shape = (len(paths), self.channels, *size)

        def fill(out: np.ndarray) -> None:
            decode_all(paths, out, self.image_size, self.workers)
            if list_images(self.root).files != listing.files:
                raise UserError(f"files in {self.root} changed while they were read: start again")

        arrays = cache.store(key, shape, listing.targets, fill)
        if arrays is None:
            arrays = np.empty(shape, dtype=np.uint8), listing.targets
            fill(arrays[0])
        return arrays
