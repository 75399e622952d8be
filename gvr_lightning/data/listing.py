"""Which image files a folder holds, and whether they are the same as last time."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gvr_lightning.data.decode import Encoded, in_chunks
from gvr_lightning.data.depth import Range, full_range, is_deep, values
from gvr_lightning.errors import UserError

DEEP = (b"\x89PNG", b"P2", b"P5", b"II", b"MM")  # what begins PNG, PGM and TIFF, whose grey may have more than 8 bits
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


@dataclass(frozen=True)
class Listing:
    """The image files of a root, train before test, in each by class and then by name; targets int64 (N,)."""

    root: Path
    classes: tuple[str, ...]
    files: list[ImageFile]
    targets: np.ndarray
    num_train: int
    left_out: Counter[str]  # files that are no images, by ending
    test: str = "test"  # the folder of the test images

    @property
    def images(self) -> list[Path]:
        """Where the files are."""
        return [self.root / file.name for file in self.files]

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many are of training, of the test and of validation."""
        return self.num_train, len(self.files) - self.num_train, 0

    def name(self, number: int) -> str:
        """Of a file, below the root."""
        return self.files[number].name

    def endings(self) -> Counter[str]:
        """How many files have which ending."""
        return Counter(os.path.splitext(file.name)[1].lower() for file in self.files)

    def stamp(self) -> str:
        """A hash of where the files are and of their names, sizes and times, but not of what is in them."""
        digest = hashlib.sha256(os.fsencode(os.path.realpath(self.root)))
        for file in self.files:
            digest.update(os.fsencode(f"\n{file.name}\0{file.size} {file.mtime_ns} {file.ctime_ns}"))
        return digest.hexdigest()

    def content(self, workers: int | None) -> tuple[str, int]:
        """A hash of the files' names and of what is in them, and the top of the range of images of more than 8 bits."""
        contents, top = read_all(self.images, workers)
        digest = hashlib.sha256()
        for file, content in zip(self.files, contents, strict=True):
            digest.update(os.fsencode(file.name) + b"\0" + content)
        return digest.hexdigest(), top

    def require_unchanged(self) -> None:
        """Raises `UserError` if the files are others by now."""
        if list_images(self.root, self.test).files != self.files:
            raise UserError(f"files in {self.root} changed while they were read: start again")

    def require_classes(self, broken: Collection[int]) -> None:
        """Raises `UserError` if of a class folder all files, given by their numbers, are left out."""
        folders, out = [tuple(file.name.split("/")[:2]) for file in self.files], set(broken)
        kept = {folder for i, folder in enumerate(folders) if i not in out}
        for i in broken:
            if folders[i] not in kept:
                folder = self.root.joinpath(*folders[i])
                raise UserError(f"no image in the class folder {folder} can be decoded: replace them or remove it")

    def newest(self) -> int:
        """When the last change to a file was, in nanoseconds."""
        return max(max(file.mtime_ns, file.ctime_ns) for file in self.files)


def read_all(images: Sequence[Encoded], workers: int | None) -> tuple[list[bytes], int]:
    """The hash of each image's bytes, and the top of the range of those of more than 8 bits.

    The latter is 0 without any, and where none of the usual ranges holds them. Raises `UserError` for a file that
    cannot be read.
    """

    def read_some(chunk: range) -> list[tuple[bytes, Range | None]]:
        try:
            return [_look(images[i]) for i in chunk]
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error

    found = [one for some in in_chunks("reading", images, read_some, workers) for one in some]
    deep = full_range([values for _, values in found if values is not None])
    return [content for content, _ in found], int(deep[1]) if deep else 0


def _look(encoded: Encoded) -> tuple[bytes, Range | None]:
    """The hash of an image, and its values' range where it is deep; what cannot be decoded is named later."""
    from PIL import Image

    raw = encoded.read_bytes()
    if raw.startswith(DEEP):
        with suppress(Exception), Image.open(io.BytesIO(raw)) as image:
            if is_deep(image):
                return hashlib.sha256(raw).digest(), values(image)
    return hashlib.sha256(raw).digest(), None


def list_images(root: Path, test: str = "test") -> Listing:
    """Find ``root/train/<class>/**`` and ``root/test/<class>/**``, or another folder with the test images.

    Raises `UserError` for a part that is missing, for none or empty class folders, and for a test class that training
    lacks.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: set data.root to the one with train/<class>/ and test/<class>/")
    classes, test_classes = (_class_names(root, part) for part in ("train", test))
    if extra := sorted(set(test_classes) - set(classes)):
        raise UserError(f"{root / test / extra[0]} has no class folder of that name in {root / 'train'}")
    files: list[ImageFile] = []
    targets: list[int] = []
    left_out: Counter[str] = Counter()
    for part, names in (("train", classes), (test, test_classes)):
        for name in names:
            found = sorted(image_files(root / part / name, f"{part}/{name}", left_out))
            if not found:
                raise UserError(f"there is no image in the class folder {root / part / name}: add some or remove it")
            files += found
            targets += [classes.index(name)] * len(found)
    num_train = sum(file.name.startswith("train/") for file in files)
    return Listing(root, tuple(classes), files, np.array(targets, dtype=np.int64), num_train, left_out, test)


def _class_names(root: Path, part: str) -> list[str]:
    """The names of the class folders, sorted."""
    folder = root / part
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no folder {folder}: {_instead(root, part)}") from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    if not names:
        raise UserError(f"there is no class folder in {folder}: put its images into {folder}/<class>/")
    return names


def _instead(root: Path, part: str) -> str:
    """What to do about a part that is missing."""
    others = sorted(path.name for path in root.iterdir() if path.is_dir() and path.name not in ("train", part))
    if part != "train" and others:
        named = " or ".join(f"data.test_folder={name}" for name in others[:3])
        return f"to test on the images of another one, set {named}"
    return "an image folder has train/<class>/ and test/<class>/; docs/pages/tutorial.md divides one that has neither"


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
