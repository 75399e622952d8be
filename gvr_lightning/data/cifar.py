"""CIFAR-10 and CIFAR-100 from the official python pickles, in a folder or in the archive as it is downloaded."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from gvr_lightning.data.cifar_files import read_archive, read_folder, unpickle
from gvr_lightning.data.confusions import CIFAR10, CIFAR100
from gvr_lightning.data.download import download
from gvr_lightning.data.image_set import ImageSet, Splits, content_hash
from gvr_lightning.errors import UserError


class _Cifar:
    """What the two have in common; a subclass is the table of its files.

    ``root`` holds the extracted folder or the official archive, or is one of them. What is there is read as it is, any
    number of images a file; what is absent is downloaded into ``root`` unless ``download`` is off.
    """

    server: ClassVar[str] = "https://www.cs.toronto.edu/~kriz"
    title: ClassVar[str]
    folder: ClassVar[str]
    archive: ClassVar[str]
    md5: ClassVar[str]
    train: ClassVar[tuple[str, ...]]
    test: ClassVar[tuple[str, ...]]
    labels: ClassVar[str]
    meta: ClassVar[str]
    names: ClassVar[str]
    usual_names: ClassVar[tuple[str, ...]]
    num_classes: ClassVar[int]

    def __init__(self, root: str | Path, download: bool = True) -> None:
        self.root = Path(root).expanduser().absolute()
        self.download = download

    def __call__(self) -> Splits:
        """Read both parts, images (N, 3, 32, 32).

        Raises `UserError` where the files are neither there nor can be downloaded, and for a missing, damaged or
        foreign file.
        """
        place = self._find() or self._download()
        wanted = {*self.train, *self.test, self.meta}
        files = read_archive(place, wanted) if place.is_file() else read_folder(place, wanted)
        for name in (*self.train, *self.test):
            if name not in files:
                raise UserError(f"{place / name} is missing: put it there, or {self.archive} anew")
        train, test = (self._join(place, files, names) for names in (self.train, self.test))
        return Splits(train, test, self._classes(place, files), content_hash(train, test), self.usual_names)

    def _find(self) -> Path | None:
        """The folder or the archive to read, None if neither is there."""
        if self.root.is_file():
            return self.root
        if any((self.root / name).is_file() for name in (*self.train, *self.test)):
            return self.root
        if (self.root / self.folder).is_dir():
            return self.root / self.folder
        return self.root / self.archive if (self.root / self.archive).is_file() else None

    def _download(self) -> Path:
        url = f"{self.server}/{self.archive}"
        path = self.root / self.archive
        way_out = f"put {url} there as {path}, or its extracted folder as {self.root / self.folder}"
        if not self.download:
            raise UserError(f"{self.title} is not in {self.root}: {way_out}")
        try:
            download(url, path, self.md5)
        except UserError as error:
            raise UserError(f"{self.title} is not in {self.root} ({error}): {way_out}") from error
        return path

    def _join(self, place: Path, files: dict[str, bytes], names: Iterable[str]) -> ImageSet:
        parts = [self._batch(place / name, files.pop(name)) for name in names]
        images = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
        targets = np.concatenate([targets for _, targets in parts])
        return ImageSet(torch.from_numpy(images), torch.from_numpy(targets))

    def _batch(self, path: Path, raw: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The pixels, uint8 (n, 3072), and the labels, int64 (n,), of one file."""
        content = unpickle(path, raw)
        for key in ("data", self.labels):
            if key not in content:
                raise UserError(f"{path} is no {self.title} file: it has no {key!r}")
        data = content["data"]
        if (
            not isinstance(data, np.ndarray)
            or data.dtype != np.uint8
            or data.shape != (max(data.size // 3072, 1), 3072)
        ):
            found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise UserError(f"{path} is no {self.title} file: 'data' is {found}, not uint8 (n, 3072)")
        labels = content[self.labels]
        if isinstance(labels, list):  # numpy would ask whatever else it is what it holds, and int64 holds no 2^80
            whole = all(type(label) is int for label in labels)
            labels = np.array([min(max(label, -1), self.num_classes) for label in labels] if whole else [], np.int64)
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.shape != data.shape[:1]:
            raise UserError(f"{path} is no {self.title} file: {self.labels!r} is not one integer an image, {len(data)}")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise UserError(f"{path} is no {self.title} file: a label is outside 0..{self.num_classes - 1}")
        return data, labels.astype(np.int64)

    def _classes(self, place: Path, files: dict[str, bytes]) -> tuple[str, ...]:
        if self.meta not in files:
            return tuple(str(i) for i in range(self.num_classes))
        names = unpickle(place / self.meta, files[self.meta]).get(self.names)
        if not isinstance(names, list) or len(names) != self.num_classes:
            raise UserError(
                f"{place / self.meta} is no {self.title} file: {self.names!r} is not {self.num_classes} names"
            )
        return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


class Cifar10(_Cifar):
    """CIFAR-10: 50,000 training and 10,000 test images, 10 classes."""

    title = "CIFAR-10"
    folder = "cifar-10-batches-py"
    archive = "cifar-10-python.tar.gz"
    md5 = "c58f30108f718f92721af3b95e74349a"
    train = tuple(f"data_batch_{i}" for i in range(1, 6))
    test = ("test_batch",)
    labels = "labels"
    meta = "batches.meta"
    names = "label_names"
    usual_names = CIFAR10
    num_classes = 10


class Cifar100(_Cifar):
    """CIFAR-100 with its fine labels: 50,000 training and 10,000 test images, 100 classes."""

    title = "CIFAR-100"
    folder = "cifar-100-python"
    archive = "cifar-100-python.tar.gz"
    md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    train = ("train",)
    test = ("test",)
    labels = "fine_labels"
    meta = "meta"
    names = "fine_label_names"
    usual_names = CIFAR100
    num_classes = 100
