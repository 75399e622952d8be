"""Images in one folder a class, decoded once and then read from a cache."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gvr_lightning.data.cache import Cache
from gvr_lightning.data.cache_entry import Arrays
from gvr_lightning.data.decode import decode_all, first_readable
from gvr_lightning.data.depth import Range
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.data.listing import Listing, list_images
from gvr_lightning.errors import UserError

LEFT_OUT = "files that are no images are left out"
FORMAT = 1  # of the decoded arrays; a change to it decodes anew
SETTLED_NS = 2 * 10**9  # the tick of the coarsest file systems' clocks


class ImageFolder:
    """``root/train/<class>/**`` and ``root/test/<class>/**``, decoded to uint8 (N, ``channels``, H, W).

    With ``image_size`` the shorter side is resized to it and the centre cut out, without it all images must be of one
    size. The decoded images are kept in ``cache_dir`` (by default the user's cache folder) under a hash of the files'
    contents; ``workers`` threads decode (by default one a core). ``test_folder`` takes the place of ``test``. The
    values of images of more than 8 bits are those of ``value_range``, by default of as many bits as the data set's
    largest value has.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | None = None,
        channels: int = 3,
        cache_dir: str | None = None,
        workers: int | None = None,
        test_folder: str | None = None,
        value_range: Sequence[float] | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"data.channels={channels}: 1 (grey) or 3 (colour)")
        for name, value in (("image_size", image_size), ("workers", workers)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"data.{name}={value}: a whole number from 1 on, or null")
        if value_range is not None and not (len(value_range) == 2 and value_range[0] < value_range[1]):
            raise UserError(f"data.value_range={list(value_range)}: the lowest and the highest value")
        self.test_folder = test_folder or "test"
        if Path(self.test_folder).name != self.test_folder or self.test_folder in ("..", "train"):
            raise UserError(f"data.test_folder={test_folder}: the name of a folder beside train")
        self.root = Path(root).expanduser().absolute()
        self.image_size = image_size
        self.channels = channels
        self.cache_dir = cache_dir
        self.workers = workers
        self.value_range = None if value_range is None else (float(value_range[0]), float(value_range[1]))

    def __call__(self) -> Splits:
        """Read the images, from the cache where it has them, as a memory map.

        Raises `UserError` for a folder or class that is missing or empty, for images that cannot be decoded or differ
        in size, and for files that change meanwhile.
        """
        started = time.time_ns()
        listing = list_images(self.root, self.test_folder)
        for what, endings in (("images of several formats", listing.endings()), (LEFT_OUT, listing.left_out)):
            if len(endings) > (what != LEFT_OUT):
                counts = ", ".join(f"{n:,} {ending}" for ending, n in sorted(endings.items()))
                print(f"data: {what}: {counts}", file=sys.stderr)
        stamp = listing.stamp()
        cache = Cache(self.cache_dir)
        known = cache.recall(stamp), cache.recall(f"{stamp}-top")
        content, top = listing.content(self.workers) if None in known else (known[0], int(str(known[1]), 16))
        deep = self.value_range or ((0.0, float(top)) if top else None)
        settings: list[Any] = [FORMAT, content, self.image_size, self.channels, *([deep] if top else [])]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        images, targets = cache.load(key) or self._decode(listing, cache, key, deep)
        # A file written just now may change again within the same tick: its time says nothing yet.
        if None in known and listing.newest() < started - SETTLED_NS:
            cache.remember(stamp, str(content))
            cache.remember(f"{stamp}-top", f"{top:064x}")
        train, test = (
            ImageSet(torch.from_numpy(images[part]), torch.from_numpy(targets[part]))
            for part in (slice(listing.num_train), slice(listing.num_train, None))
        )
        return Splits(train, test, listing.classes, key, value_range=deep)

    def _decode(self, listing: Listing, cache: Cache, key: str, deep: Range | None) -> Arrays:
        """Decode into the cache, or into memory if that cannot be."""
        paths = listing.paths()
        size = (self.image_size,) * 2 if self.image_size else first_readable(paths, self.channels, deep)[1][1:]
        shape = (len(paths), self.channels, *size)

        if deep is not None:
            values = f"from {deep[0]:g} to {deep[1]:g}"
            print(f"data: values of images of more than 8 bits {values} become 0 to 255", file=sys.stderr)

        def fill(out: np.ndarray) -> None:
            decode_all(paths, out, self.image_size, self.workers, deep)
            if list_images(self.root, self.test_folder).files != listing.files:
                raise UserError(f"files in {self.root} changed while they were read: start again")

        arrays = cache.store(key, shape, listing.targets, fill)
        if arrays is None:
            arrays = np.empty(shape, dtype=np.uint8), listing.targets
            fill(arrays[0])
        return arrays
