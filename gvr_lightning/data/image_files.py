"""Which image files lie below a folder."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, overload

from gvr_lightning.errors import UserError

EXTENSIONS = (
    *(".png", ".pgm", ".tif", ".tiff"),
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".ppm",
        ".pbm",
        ".pnm",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".jp2",
        ".tga",
        ".avif",
    ),
)


class ImageFile(NamedTuple):
    """A file: its path below the root, with slashes, and what the system says of it."""

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int  # unlike the mtime it cannot be set back


class Files(Sequence[Path]):
    """Where files are; their paths are made when they are asked for, which takes a quarter of the memory.

    Args:
        root: the folder.
        names: of the files in it.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, number: int) -> Path: ...

    @overload
    def __getitem__(self, number: slice) -> "Files": ...

    def __getitem__(self, number: int | slice) -> "Path | Files":
        if isinstance(number, slice):
            return Files(self.root, self.names[number])
        return self.root / self.names[number]


def image_files(folder: Path | str, name: str, left_out: Counter[str]) -> list[ImageFile]:
    """The image files anywhere below a folder, links followed; hidden ones are left out, and others counted.

    Args:
        folder: where to look.
        name: of the folder in the files' names, "" to leave it out.
        left_out: gains the files that are no images, by ending.
    """
    found, above = [], f"{name}/" if name else ""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in visible:
            if entry.is_dir():
                found += image_files(entry.path, f"{above}{entry.name}", left_out)
            elif not entry.is_file() and entry.name.lower().endswith(EXTENSIONS) and not _dangling(entry):
                left_out["pipe or device"] += 1
            elif not entry.name.lower().endswith(EXTENSIONS):
                left_out[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1
            else:
                stat = entry.stat()
                found.append(ImageFile(f"{above}{entry.name}", stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    return found


def _dangling(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a link to nothing, which is said as a file that cannot be read."""
    return entry.is_symlink() and not os.path.exists(entry.path)
