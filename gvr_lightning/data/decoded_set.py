"""Images that a source has found: decoded once to one size and then read from a cache, or left encoded."""

import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gvr_lightning.data.broken import NAMED, REPLACE, broken_line, leave_out, left_out
from gvr_lightning.data.cache import Cache
from gvr_lightning.data.cache_entry import Arrays
from gvr_lightning.data.decode import decode_all, first_readable, pair
from gvr_lightning.data.depth import Range
from gvr_lightning.data.encoded import EncodedImages
from gvr_lightning.data.found import Found
from gvr_lightning.data.image_set import ImageSet, Splits
from gvr_lightning.data.keep import stays_encoded
from gvr_lightning.errors import UserError

FORMAT = 1  # of the decoded arrays; a change to it decodes anew
SETTLED_NS = 2 * 10**9  # the tick of the coarsest file systems' clocks


class DecodedSet:
    """What sources of encoded images have in common; a subclass finds them and calls :meth:`read`.

    With ``image_size``, a square's side or height and width, images are resized to cover it and the centre is cut out;
    without it all images must be of one size. The decoded images, uint8 (N, ``channels``, H, W), are kept in
    ``cache_dir`` (by default the user's cache folder) under a hash of the contents; ``workers`` threads decode (by
    default one a core). The values of images of more than 8 bits are those of ``value_range``, by default of as many
    bits as the data set's largest value has. With ``skip_broken`` images that cannot be decoded are left out. The
    centre keeps ``crop_pct`` of the sides of what covers it. By ``keep`` the images stay encoded instead, "auto" where
    they would be too large: then they are resized and cropped whenever they are read.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] | None = None,
        channels: int = 3,
        cache_dir: str | None = None,
        workers: int | None = None,
        value_range: Sequence[float] | None = None,
        skip_broken: bool = False,
        keep: str = "auto",
        crop_pct: float = 1.0,
    ) -> None:
        if channels not in (1, 3):
            raise UserError(f"data.channels={channels}: 1 (grey) or 3 (colour)")
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise UserError(f"data.workers={workers}: a whole number from 1 on, or null")
        if value_range is not None and not (len(value_range) == 2 and value_range[0] < value_range[1]):
            raise UserError(f"data.value_range={list(value_range)}: the lowest and the highest value")
        if not 0.5 <= crop_pct <= 1 or (crop_pct < 1 and image_size is None):
            raise UserError(f"data.crop_pct={crop_pct}: a number in [0.5, 1], and below 1 with data.image_size")
        self.image_size = _size(image_size)
        self.keep, self.crop_pct = keep, float(crop_pct)
        self.skip_broken = skip_broken
        self.channels = channels
        self.cache_dir = cache_dir
        self.workers = workers
        self.value_range = None if value_range is None else (float(value_range[0]), float(value_range[1]))

    def read(self, found: Found, started: int) -> Splits:
        """The images, from the cache where it has them, as a memory map.

        Args:
            found: the images.
            started: when the search for them began, in nanoseconds.

        Raises `UserError` for images that cannot be decoded or differ in size, and for files that change meanwhile.
        """
        n, cache, stamp = len(found.targets), Cache(self.cache_dir), found.stamp()
        shape = None if self.image_size is None else (n, self.channels, *pair(self.image_size))
        encoded = stays_encoded(self.keep, shape, self.skip_broken)
        known = cache.recall(stamp), cache.recall(f"{stamp}-top")
        content, top = found.content(self.workers) if None in known else (known[0], int(str(known[1]), 16))
        deep = self.value_range or ((0.0, float(top)) if top else None)
        settings: list[Any] = [FORMAT, content, self.image_size, self.channels, *([deep] if top else [])]
        settings += [["crop_pct", self.crop_pct]] if self.crop_pct < 1 else []
        if encoded and None in known:
            found.require_unchanged()
        if encoded:
            key, parts, broken = _hash([*settings, "encoded"]), self._encoded(found, deep), list[int]()
        else:
            key, parts, broken = self._decoded(found, cache, settings, deep)
        # A file written just now may change again within the same tick: its time says nothing yet.
        if None in known and found.newest() < started - SETTLED_NS:
            cache.remember(stamp, str(content))
            cache.remember(f"{stamp}-top", f"{top:064x}")
        train, test, val = parts
        own, names = val if len(val.targets) else None, tuple(found.name(i) for i in broken)
        return Splits(train, test, found.classes, key, value_range=deep, left_out=names, val=own, cache=cache)

    def _encoded(self, found: Found, deep: Range | None) -> list[ImageSet]:
        """The parts, of which nothing is decoded yet."""
        assert self.image_size is not None, "stays_encoded() has asked for it"
        images, ends, parts = found.images, np.cumsum(found.counts).tolist(), []
        for first, end in zip((0, *ends), ends, strict=False):
            some = images[first:end]
            size, targets = pair(self.image_size), torch.from_numpy(found.targets[first:end])
            parts.append(ImageSet(EncodedImages(some, self.channels, size, self.crop_pct, deep, self.workers), targets))
        return parts

    def _decoded(
        self, found: Found, cache: Cache, settings: list[Any], deep: Range | None
    ) -> tuple[str, list[ImageSet], list[int]]:
        """Their hash, the parts, and the numbers of the images that are left out."""
        key, arrays, broken = self._arrays(found, cache, settings, deep)
        ends, parts, start = np.cumsum(found.counts).tolist(), [], 0
        for first, end in zip((0, *ends), ends, strict=False):
            kept = end - first - sum(first <= i < end for i in broken)
            parts.append(ImageSet(*(torch.from_numpy(array[start : start + kept]) for array in arrays)))
            start += kept
        return key, parts, broken

    def _arrays(
        self, found: Found, cache: Cache, settings: list[Any], deep: Range | None
    ) -> tuple[str, Arrays, list[int]]:
        """Their hash, the images and targets, and the numbers of the images that are left out, whose rows are last.

        Where none is, it is the very data set of a run that leaves none out.
        """
        key = _hash(settings)
        if not self.skip_broken:
            return key, cache.load(key) or self._decode(found, cache, key, deep), []
        skipping = _hash([*settings, "skip_broken"])
        arrays = cache.load(key) or cache.load(skipping) or self._decode(found, cache, skipping, deep)
        broken = left_out(arrays[1])
        if broken:
            found.require_classes(broken)
            images = found.images
            names = [str(images[i]) for i in broken]
            some = ", ".join([*names[:NAMED], *["..."] * (len(names) > NAMED)])
            of = f"{len(names):,} of {len(found.targets):,} images"
            print(f"data: {of} cannot be decoded and are left out: {some}", file=sys.stderr)
        return skipping if broken else key, arrays, broken

    def _decode(self, found: Found, cache: Cache, key: str, deep: Range | None) -> Arrays:
        """Decode into the cache, or into memory if that cannot be."""
        images, targets = found.images, found.targets.copy()
        size = first_readable(images, self.channels, deep)[1][1:] if self.image_size is None else pair(self.image_size)
        shape = (len(images), self.channels, *size)

        if deep is not None:
            values = f"from {deep[0]:g} to {deep[1]:g}"
            print(f"data: values of images of more than 8 bits {values} become 0 to 255", file=sys.stderr)

        def fill(out: np.ndarray) -> None:
            broken = decode_all(images, out, self.image_size, self.workers, deep, self.crop_pct)
            if broken and not self.skip_broken:
                way_out = f"{REPLACE}, or set data.skip_broken=true"
                raise UserError(broken_line(list(broken.values()), way_out))
            leave_out(out, targets, broken)
            found.require_unchanged()

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
