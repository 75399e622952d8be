"""Which image files a data set's folder holds, and whether they are the same as last time."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gvr_lightning.data.contents import read_all
from gvr_lightning.data.image_files import Files, ImageFile, image_files
from gvr_lightning.data.layouts import Layout, annotations, class_folders, find_layout, others, readable
from gvr_lightning.errors import UserError


@dataclass(frozen=True)
class Listing:
    """The image files of a layout: train, test, validation, in each by class and then by name; targets int64 (N,)."""

    layout: Layout
    classes: tuple[str, ...]
    files: list[ImageFile]
    targets: np.ndarray
    counts: tuple[int, int, int]  # files of training, of the test and of validation
    left_out: Counter[str]  # files that are no images, by ending

    @property
    def root(self) -> Path:
        """What the files' names are below."""
        return self.layout.root

    @property
    def images(self) -> Files:
        """Where the files are."""
        return Files(self.root, [file.name for file in self.files])

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
        return self._labelled(digest)

    def content(self, workers: int | None) -> tuple[str, int]:
        """A hash of the files' names and of what is in them, and the top of the range of images of more than 8 bits."""
        contents, top = read_all(self.images, workers)
        digest = hashlib.sha256()
        for file, content in zip(self.files, contents, strict=True):
            digest.update(os.fsencode(file.name) + b"\0" + content)
        return self._labelled(digest), top

    def require_unchanged(self) -> None:
        """Raises `UserError` if the files are others by now."""
        now = _list(self.layout)
        if now.files != self.files or not np.array_equal(now.targets, self.targets):
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

    def _labelled(self, digest: "hashlib._Hash") -> str:
        """With the classes, where a file's name does not say which is its own."""
        if self.layout.annotated:
            digest.update(self.targets.tobytes())
        return digest.hexdigest()


def list_images(root: Path, test: str | None = None) -> Listing:
    """The images of a folder, with the test images in a folder of this name, or of the usual ones.

    Raises `UserError` for a part that is missing, for none or empty class folders, and for a class of the test or of
    validation that training lacks.
    """
    return _list(find_layout(root, test))


def _list(layout: Layout) -> Listing:
    classes, left_out = class_folders(layout, layout.train), Counter[str]()
    files, targets, counts = [], [], []
    for part in (layout.train, layout.test, layout.val):
        found = _of_part(layout, part, classes, left_out) if part else []
        files += [file for _, file in found]
        targets += [label for label, _ in found]
        counts.append(len(found))
    numbers = np.array(targets, dtype=np.int64)
    return Listing(layout, readable(layout.root, classes), files, numbers, (counts[0], counts[1], counts[2]), left_out)


def _of_part(layout: Layout, part: str, classes: list[str], left_out: Counter[str]) -> list[tuple[int, ImageFile]]:
    """The files of a part, each with its class's number, in order."""
    folder = layout.root / part
    if part in layout.annotated:
        below = folder / "images"
        labels = annotations(folder, classes)
        found = {Path(file.name).name: file for file in image_files(below, f"{part}/images", left_out)}
        if strange := sorted(set(found) ^ set(labels)):
            where = "is not in val_annotations.txt" if strange[0] in found else "is missing, which it names"
            raise UserError(f"{below / strange[0]} {where}: add it or remove it there")
        return sorted((classes.index(labels[name]), file) for name, file in found.items())
    names = classes if part == layout.train else class_folders(layout, part)
    if extra := sorted(set(names) - set(classes)):
        instead = "" if set(names) & set(classes) else others(layout.root, layout.train, part)
        line = f"{folder / extra[0]} has no class folder of that name in {layout.root / layout.train}"
        raise UserError(line + (f"; {instead}" if instead else ""))
    files = []
    for name in names:
        of_class = sorted(image_files(folder / name, f"{part}/{name}", left_out))
        if not of_class:
            raise UserError(f"there is no image in the class folder {folder / name}: add some or remove it")
        files += [(classes.index(name), file) for file in of_class]
    return files
