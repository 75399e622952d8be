"""Small generated data sets in the formats that the sources read."""

import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

CIFAR: dict[str, dict[str, Any]] = {
    "cifar10": {
        "folder": "cifar-10-batches-py",
        "archive": "cifar-10-python.tar.gz",
        "train": [f"data_batch_{i}" for i in range(1, 6)],
        "test": "test_batch",
        "labels": "labels",
        "meta": ("batches.meta", "label_names", 10),
    },
    "cifar100": {
        "folder": "cifar-100-python",
        "archive": "cifar-100-python.tar.gz",
        "train": ["train"],
        "test": "test",
        "labels": "fine_labels",
        "meta": ("meta", "fine_label_names", 100),
    },
}


class _Python2Pickler(pickle._Pickler):
    """Writes str and bytes as the str of Python 2, which is what the official files hold."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def _save_string(self: Any, text: str | bytes) -> None:
        raw = text.encode("ascii") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = _save_string


def dump_cifar(path: Path, content: dict[str, Any]) -> None:
    """Pickle ``content`` as the official files are: by Python 2, with the module names of numpy 1."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core."))


def write_cifar(root: Path, name: str, n_per_file: int = 20) -> Path:
    """Write the extracted folder of ``name``, "cifar10" or "cifar100", below ``root`` and return it.

    Each file holds ``n_per_file`` random images; their labels run through the classes from the file's number on.
    """
    spec = CIFAR[name]
    folder = Path(root) / spec["folder"]
    folder.mkdir(parents=True)
    meta, names, num_classes = spec["meta"]
    for number, file in enumerate([*spec["train"], spec["test"]]):
        data = np.random.RandomState(number).randint(0, 256, (n_per_file, 3072)).astype(np.uint8)
        labels = [(number + i) % num_classes for i in range(n_per_file)]
        dump_cifar(folder / file, {"data": data, spec["labels"]: labels, "batch_label": file})
    dump_cifar(folder / meta, {names: [f"class {i}" for i in range(num_classes)]})
    return folder


def pack_cifar(folder: Path, name: str) -> Path:
    """Write the archive of a folder from `write_cifar` beside it and return it."""
    archive = folder.parent / CIFAR[name]["archive"]
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, CIFAR[name]["folder"])
    return archive


def write_image_folder(
    root: Path, classes: int = 3, train: int = 20, test: int = 10, size: tuple[int, int] = (12, 12)
) -> Path:
    """Write ``root/{train,test}/class_<i>/<number>.png`` and return ``root``.

    ``train`` and ``test`` images a class, colour, ``size`` is (width, height); a class has its own colour, plus noise.
    """
    random = np.random.RandomState(0)
    colours = random.randint(40, 216, (classes, 3))
    for part, count in (("train", train), ("test", test)):
        for label, colour in enumerate(colours):
            folder = Path(root) / part / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = colour + random.randint(-40, 40, (size[1], size[0], 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:04d}.png")
    return Path(root)
