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

from gvr_lightning.data.broken import NAMED, REPLACE, broken_line, leave_out, left_out
from gvr_lightning.data.cache import Cache
from gvr_lightning.data.cache_entry import Arrays
from gvr_lightning.data.decode import decode_all, first_readable, pair
from gvr_lightning.data.depth import Range
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.data.listing import Listing, list_images
from gvr_lightning.errors import UserError

LEFT_OUT = "files that are no images are left out"
FORMAT = 1  # of the decoded arrays; a change to it decodes anew
SETTLED_NS = 2 * 10**9  # the tick of the coarsest file systems' clocks


class ImageFolder:
    """``root/train/<class>/**`` and ``root/test/<class>/**``, decoded to uint8 (N, ``channels``, H, W).

    With ``image_size``, a square's side or height and width, images are resized to cover it and the centre is cut out;
    without it all images must be of one size. The decoded images are kept in ``cache_dir`` (by default the user's cache
    folder) under a hash of the files' contents; ``workers`` threads decode (by default one a core). ``test_folder``
    takes the place of ``test``. The values of images of more than 8 bits are those of ``value_range``, by default of as
    many bits as the data set's largest value has. With ``skip_broken`` files that cannot be decoded are left out.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | Sequence[int] | None = None,
        channels: int = 3,
        cache_dir: str | None = None,
        workers: int | None = None,
        test_folder: str | None = None,
        value_range: Sequence[float] | None = None,
        skip_broken: bool = False,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"data.channels={channels}: 1 (grey) or 3 (colour)")
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise UserError(f"data.workers={workers}: a whole number from 1 on, or null")
        if value_range is not None and not (len(value_range) == 2 and value_range[0] < value_range[1]):
            raise UserError(f"data.value_range={list(value_range)}: the lowest and the highest value")
        self.test_folder = test_folder or "test"
        if Path(self.test_folder).name != self.test_folder or self.test_folder in ("..", "train"):
            raise UserError(f"data.test_folder={test_folder}: the name of a folder beside train")
        self.root = Path(root).expanduser().absolute()
        self.image_size = _size(image_size)
        self.skip_broken = skip_broken
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
        key, arrays, broken = self._arrays(listing, cache, settings, deep)
        # A file written just now may change again within the same tick: its time says nothing yet.
        if None in known and listing.newest() < started - SETTLED_NS:
            cache.remember(stamp, str(content))
            cache.remember(f"{stamp}-top", f"{top:064x}")
        num_train = listing.num_train - sum(i < listing.num_train for i in broken)
        train, test = (
            ImageSet(*(torch.from_numpy(array[part]) for array in arrays))
            for part in (slice(num_train), slice(num_train, len(listing.files) - len(broken)))
        )
        names = tuple(listing.files[i].name for i in broken)
        return Splits(train, test, listing.classes, key, value_range=deep, left_out=names)

    def _arrays(
        self, listing: Listing, cache: Cache, settings: list[Any], deep: Range | None
    ) -> tuple[str, Arrays, list[int]]:
        """Their hash, the images and targets, and the numbers of the files that are left out, whose rows are last.

        Where none is, it is the very data set of a run that leaves none out.
        """
        key = _hash(settings)
        if not self.skip_broken:
            return key, cache.load(key) or self._decode(listing, cache, key, deep), []
        skipping = _hash([*settings, "skip_broken"])
        arrays = cache.load(key) or cache.load(skipping) or self._decode(listing, cache, skipping, deep)
        broken = left_out(arrays[1])
        if broken:
            listing.require_classes(broken)
            names = [str(listing.root / listing.files[i].name) for i in broken]
            some = ", ".join([*names[:NAMED], *["..."] * (len(names) > NAMED)])
            of = f"{len(names):,} of {len(listing.files):,} images"
            print(f"data: {of} cannot be decoded and are left out: {some}", file=sys.stderr)
        return skipping if broken else key, arrays, broken

    def _decode(self, listing: Listing, cache: Cache, key: str, deep: Range | None) -> Arrays:
        """Decode into the cache, or into memory if that cannot be."""
        paths, targets = listing.paths(), listing.targets.copy()
        size = first_readable(paths, self.channels, deep)[1][1:] if self.image_size is None else pair(self.image_size)
        shape = (len(paths), self.channels, *size)

        if deep is not None:
            values = f"from {deep[0]:g} to {deep[1]:g}"
            print(f"data: values of images of more than 8 bits {values} become 0 to 255", file=sys.stderr)

        def fill(out: np.ndarray) -> None:
            broken = decode_all(paths, out, self.image_size, self.workers, deep)
            if broken and not self.skip_broken:
                way_out = f"{REPLACE}, or set data.skip_broken=true"
                raise UserError(broken_line(list(broken.values()), way_out))
            leave_out(out, targets, broken)
            if list_images(self.root, self.test_folder).files != listing.files:
                raise UserError(f"files in {self.root} changed while they were read: start again")

        arrays = cache.store(key, shape, targets, fill)
        if arrays is None:
            arrays = np.empty(shape, dtype=np.uint8), targets
            fill(arrays[0])
        return arrays


def _size(value: Any) -> int | list[int] | None:
    """A size as it enters the hash: of a square its side."""
    if value is None:
        return None
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise UserError(f"data.image_size={value}: a whole number from 1 on, or two, the height and the width; or null")
    return sides[0] if sides[0] == sides[1] else sides


def _hash(settings: list[Any]) -> str:
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()
