"""One folder of the cache: how it is written, and checked when it is opened."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]  # images, uint8 (N, C, H, W); targets, int64 (N,)
IMAGES, TARGETS, META = "images.npy", "targets.npy", "meta.json"
DAMAGED = (OSError, ValueError, KeyError, TypeError)  # what `open_entry` raises for an entry that is not whole


def reserve(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A .npy file of this shape, mapped; its space is claimed now, as a disk that fills up later kills the process."""
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.seek(size - images.nbytes)
            for start in range(0, images.nbytes, 1 << 20):
                file.write(bytes(min(1 << 20, images.nbytes - start)))
    return images


def seal(entry: Path, targets: np.ndarray) -> None:
    """Write the targets, and in meta.json what `open_entry` checks."""
    np.save(entry / TARGETS, targets, allow_pickle=False)
    meta: dict[str, Any] = {}
    past = time.time_ns() - 10**10  # any later write shows, even one within the clock's tick
    for name in (IMAGES, TARGETS):
        path = entry / name
        os.utime(path, ns=(past, past))
        meta[name] = {"bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "sha256": _sha256(path)}
    (entry / META).write_text(json.dumps(meta, indent=1))


def open_entry(entry: Path) -> Arrays:
    """The arrays of an entry. Raises for a damaged one.

    A file with the size and time it was sealed with is taken as whole; another one is read through.
    """
    meta = json.loads((entry / META).read_text())
    for name in (IMAGES, TARGETS):
        stat, sealed = (entry / name).stat(), meta[name]
        if stat.st_size != sealed["bytes"]:
            raise ValueError(f"{name} has {stat.st_size} bytes, not {sealed['bytes']}")
        if stat.st_mtime_ns != sealed["mtime_ns"] and _sha256(entry / name) != sealed["sha256"]:
            raise ValueError(f"{name} has been changed")
    images = np.load(entry / IMAGES, mmap_mode="c", allow_pickle=False)
    return images, np.load(entry / TARGETS, allow_pickle=False)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
