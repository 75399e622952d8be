"""Which image files a folder holds, and whether they are the same as last time."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gvr_lightning.data.decode import in_chunks
from gvr_lightning.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class ImageFile(NamedTuple):
    """A file: its path below the root, with slashes, and what the system says of it."""

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int  # unlike the mtime it cannot be set back


@dataclass(frozen=True)
class Listing:
    """The image files of a root, train before test, in each by class and then by name; targets int64 (N,)."""

    root: Path
    classes: tuple[str, ...]
    files: list[ImageFile]
    targets: np.ndarray
    num_train: int

    def paths(self) -> list[Path]:
        """Where the files are."""
        return [self.root / file.name for file in self.files]

    def stamp(self) -> str:
        """A hash of where the files are and of their names, sizes and times, but not of what is in them."""
        digest = hashlib.sha256(os.fsencode(os.path.realpath(self.root)))
        for file in self.files:
            digest.update(os.fsencode(f"\n{file.name}\0{file.size} {file.mtime_ns} {file.ctime_ns}"))
        return digest.hexdigest()

    def content(self, workers: int | None) -> str:
        """A hash of the files' names and of what is in them. Raises `UserError` for a file that cannot be read."""
        paths = self.paths()

        def hash_some(chunk: range) -> list[bytes]:
            try:
                return [hashlib.sha256(paths[i].read_bytes()).digest() for i in chunk]
            except OSError as error:
                raise UserError(f"cannot read {error.filename}: {error.strerror}") from error

        hashes = in_chunks("reading", paths, hash_some, workers)
        digest = hashlib.sha256()
        for file, content in zip(self.files, (content for some in hashes for content in some), strict=True):
            digest.update(os.fsencode(file.name) + b"\0" + content)
        return digest.hexdigest()

    def newest(self) -> int:
        """When the last change to a file was, in nanoseconds."""
        return max(max(file.mtime_ns, file.ctime_ns) for file in self.files)


def list_images(root: Path) -> Listing:
    """Find ``root/train/<class>/**`` and ``root/test/<class>/**``.

    Raises `UserError` for a part that is missing, for none or empty class folders, and for a test class that training
    lacks.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: set data.root to the one with train/<class>/ and test/<class>/")
    classes, test_classes = (_class_names(root, part) for part in ("train", "test"))
    if extra := sorted(set(test_classes) - set(classes)):
        raise UserError(f"{root / 'test' / extra[0]} has no class folder of that name in {root / 'train'}")
    files: list[ImageFile] = []
    targets: list[int] = []
    for part, names in (("train", classes), ("test", test_classes)):
        for name in names:
            found = sorted(_images(root / part / name, f"{part}/{name}"))
            if not found:
                raise UserError(f"there is no image in the class folder {root / part / name}: add some or remove it")
            files += found
            targets += [classes.index(name)] * len(found)
    num_train = sum(file.name.startswith("train/") for file in files)
    return Listing(root, tuple(classes), files, np.array(targets, dtype=np.int64), num_train)


def _class_names(root: Path, part: str) -> list[str]:
    """The names of the class folders, sorted."""
    folder = root / part
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no folder {folder}: an image folder has train/<class>/ and test/<class>/") from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    if not names:
        raise UserError(f"there is no class folder in {folder}: put its images into {folder}/<class>/")
    return names


def _images(folder: Path | str, name: str) -> list[ImageFile]:
    """The image files anywhere below a folder, links followed; hidden ones and those of other extensions left out."""
    found = []
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in visible:
            if entry.is_dir():
                found += _images(entry.path, f"{name}/{entry.name}")
            elif entry.name.lower().endswith(EXTENSIONS):
                stat = entry.stat()
                found.append(ImageFile(f"{name}/{entry.name}", stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    return found
