"""Encoded images in the columns of Arrow tables, as the ``datasets`` library has them."""

import errno
import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gvr_lightning.data.contents import read_all
from gvr_lightning.data.image_files import ImageFile
from gvr_lightning.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """An image in a column: its bytes, or the path of its file."""

    split: str
    number: int
    column: Any

    def read_bytes(self) -> bytes:
        """Those of its file; none where the row is empty. Only regular files of this machine are opened."""
        value = self.column[self.number].as_py()
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content is None and path:
            if not os.path.isabs(path) or not Path(path).is_file():
                raise FileNotFoundError(errno.ENOENT, "there is no such file", path)
            return Path(path).read_bytes()
        return content or b""

    def __str__(self) -> str:
        value = self.column[self.number].as_py()
        path = value.get("path") if isinstance(value, dict) else None
        return f"row {self.number} of the split {self.split}" + (f" ({path})" if path else "")


@dataclass(frozen=True)
class Rows:
    """The images of a set, as :class:`gvr_lightning.data.found.Found` has it."""

    images: Sequence[Row]
    targets: np.ndarray
    counts: tuple[int, int, int]
    classes: tuple[str, ...]
    sources: Sequence[Path]  # the files and folders that the set is read from
    apart: Path  # the cache, which may lie in such a folder
    files: Sequence[ImageFile]  # what the sources held before they were read
    chosen: str  # of all that they hold, in words

    def name(self, number: int) -> str:
        """Of an image: its row."""
        return str(self.images[number])

    def stamp(self) -> str:
        """A hash of the files' names, sizes and times, and of what is taken of them."""
        return stamp(self.files, self.chosen)

    def newest(self) -> int:
        """When the last change to a file was, in nanoseconds."""
        return max(max(file.mtime_ns, file.ctime_ns) for file in self.files)

    def content(self, workers: int | None) -> tuple[str, int]:
        """A hash of the images' bytes, their targets and classes, and the top of the range of deep ones."""
        contents, top = read_all(self.images, workers)
        digest = hashlib.sha256(repr((self.counts, self.classes)).encode())
        for content, target in zip(contents, self.targets.tolist(), strict=True):
            digest.update(content + target.to_bytes(8, "little"))
        return digest.hexdigest(), top

    def require_unchanged(self) -> None:
        """Raises `UserError` if the files are others by now."""
        if files_of(self.sources, self.apart) != self.files:
            raise UserError(f"files in {self.sources[0]} changed while they were read: start again")

    def require_classes(self, broken: Collection[int]) -> None:
        """Raises `UserError` if a class has lost all its images of a part."""
        ends = np.cumsum(self.counts)
        parts = np.searchsorted(ends, np.arange(len(self.targets)), side="right")
        out = np.isin(np.arange(len(self.targets)), list(broken))
        kept = set(zip(parts[~out].tolist(), self.targets[~out].tolist(), strict=True))
        for i in broken:
            if (int(parts[i]), int(self.targets[i])) not in kept:
                name = self.classes[int(self.targets[i])]
                raise UserError(f"no image of the class {name} can be decoded, such as {self.images[i]}: replace them")


def files_of(sources: Sequence[Path], apart: Path) -> list[ImageFile]:
    """The files, and those below the folders but ``apart``, links followed, by name; hidden ones are left out."""
    found = []
    for source in sources:
        if source.is_file():
            found.append(_file(source))
        for folder, below, names in os.walk(source, followlinks=True):
            below[:] = [name for name in below if not name.startswith(".") and Path(folder, name) != apart]
            found += [_file(Path(folder, name)) for name in names if not name.startswith(".")]
    return sorted(found)


def _file(path: Path) -> ImageFile:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return ImageFile(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def stamp(files: Sequence[ImageFile], chosen: str = "") -> str:
    """A hash of the files' names, sizes and times."""
    return hashlib.sha256(os.fsencode(repr((list(map(tuple, files)), chosen)))).hexdigest()
