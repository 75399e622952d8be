"""What ``gvr-predict`` does: any folder of images to a table of their classes."""

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from gvr_lightning.app.trained import device_named, preparation, trained_classifier
from gvr_lightning.checkpoint import Loaded
from gvr_lightning.data.batches import ImageReader
from gvr_lightning.data.broken import REPLACE, Broken, broken_line
from gvr_lightning.data.decode import counted
from gvr_lightning.data.image_files import image_files
from gvr_lightning.data.image_folder import LEFT_OUT
from gvr_lightning.errors import UserError
from gvr_lightning.files import as_text, atomic


def predict_images(
    run: str,
    images: str,
    out: str = "predictions.csv",
    top: int = 1,
    skip_broken: bool = False,
    batch_size: int = 500,
    workers: int | None = None,
    device: str = "auto",
    which: str | None = None,
    weights: str = "ema",
    trust: Any = None,
) -> Path:
    """Write path, class and probability of every image below a folder, by path.

    Returns:
        The table.

    Raises:
        UserError: for what is no classification run, a folder without images, or images that cannot be decoded.
    """
    path, folder = Path(out).expanduser(), Path(images).expanduser()
    if path.suffix != ".csv":
        raise UserError(f"out={out}: a table's name ends in .csv")
    names = _found(folder)
    checkpoint, loaded = trained_classifier(run, which, weights, trust)
    if top > len(loaded.classes):
        raise UserError(f"top={top}: the run has {len(loaded.classes)} classes")
    prepare = preparation(loaded, checkpoint, trust)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = device_named(device)
    loaded.network.to(place)
    paths = [folder / name for name in names]
    reader = ImageReader(paths, loaded.source_shape, loaded.value_range, workers, loaded.crop_pct)
    broken: list[Broken] = []

    def rows() -> Iterator[list[Any]]:
        with counted("predicting", len(names)) as advance, torch.inference_mode():
            for index, pixels, unread in reader.batches(batch_size):
                broken.extend(unread)
                if len(index) and (skip_broken or not broken):  # else all that is left to do is to name the broken ones
                    entering = prepare(pixels, index).to(place)
                    yield from _rows([names[i] for i in index.tolist()], loaded, entering, top)
                advance(len(index) + len(unread))

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(_heading(top))
            writer.writerows([as_text(cell) for cell in row] for row in rows())
        if broken and (not skip_broken or len(broken) == len(names)):
            raise UserError(broken_line(broken, REPLACE if skip_broken else f"{REPLACE}, or add skip_broken=true"))

    atomic(path, write)
    if broken:
        print(f"{len(broken)} of {len(names)} images are left out: {broken_line(broken, '')}", file=sys.stderr)
    return path


def _found(folder: Path) -> list[str]:
    """The images below a folder, by path."""
    if not folder.is_dir():
        raise UserError(f"images={folder}: {'is a file: give its folder' if folder.exists() else 'there is no folder'}")
    left_out: Counter[str] = Counter()
    names = sorted(file.name for file in image_files(folder, "", left_out))
    if left_out:
        counts = ", ".join(f"{n:,} {ending}" for ending, n in sorted(left_out.items()))
        print(f"{LEFT_OUT}: {counts}", file=sys.stderr)
    if not names:
        raise UserError(f"images={folder}: there is no image in it")
    return names


def _heading(top: int) -> list[str]:
    further = [f"{name}_{k}" for k in range(2, top + 1) for name in ("class", "probability")]
    return ["path", "class", "probability", *further]


def _rows(names: Sequence[str], loaded: Loaded, entering: torch.Tensor, top: int) -> Iterator[list[Any]]:
    """One row an image; of equally probable classes the first comes first, as in the accuracy."""
    probabilities = loaded.network(entering).float().softmax(1).cpu()
    values, classes = probabilities.sort(dim=1, descending=True, stable=True)
    for name, p, c in zip(names, values[:, :top].tolist(), classes[:, :top].tolist(), strict=True):
        yield [name, *(cell for pair in zip((loaded.classes[i] for i in c), p, strict=True) for cell in pair)]
