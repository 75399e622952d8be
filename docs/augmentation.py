"""Draws pages/augmentation.jpg: each transform at several strengths, on bundled images: python docs/augmentation.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images
from torch import Tensor

from gvr_lightning.data.mixing import Pairs
from gvr_lightning.data.transforms.policy import OPERATIONS, Policy, trivial_largest
from gvr_lightning.data.transforms.recipe import recipe

FILE = Path(__file__).parent / "pages" / "augmentation.jpg"
SIDE, GAP, LEFT, TEXT = 96, 4, 112, 15
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "crop_scale": {str(s): {"crop_scale": s} for s in ([0.7, 1], [0.4, 0.6], [0.2, 0.3], [0.08, 0.15], [0.02, 0.04])},
    "degrees": {str(d): {"degrees": d} for d in (5, 15, 45, 90, 180)},
    "brightness": {str(x): {"brightness": x} for x in (0.2, 0.4, 0.6, 0.8, 1.0)},
    "contrast": {str(x): {"contrast": x} for x in (0.2, 0.4, 0.6, 0.8, 1.0)},
    "saturation": {str(x): {"saturation": x} for x in (0.4, 0.8, 1.0, 2.0, 4.0)},
    "hue": {str(x): {"hue": x} for x in (0.05, 0.1, 0.2, 0.3, 0.5)},
    "blur_sigma": {str(s): {"blur_prob": 1.0, "blur_sigma": [s, s], "blur_radius": 10} for s in (0.5, 1, 2, 3, 4)},
    "erase_scale": {
        str(s): {"erase_prob": 1.0, "erase_scale": s}
        for s in ([0.02, 0.04], [0.05, 0.1], [0.1, 0.2], [0.2, 0.3], [0.3, 0.5])
    },
    "cutout": {str(n): {"cutout": n, "cutout_prob": 1.0} for n in (8, 16, 32, 48, 64)},
    "policy_magnitude": {str(m): {"policy": "rand", "policy_magnitude": m} for m in (3, 9, 15, 22, 30)},
}


def main() -> None:
    """All rows below each other."""
    china, flower = (_square(image) for image in load_sample_images().images)
    lines = [(name, list(_row(flower, row))) for name, row in ROWS.items()]
    lines += [("policy=trivial", list(_operations(china, names))) for names in _by_five()]
    lines += [
        ("mix.mixup", list(_mixed(china, flower, box=False))),
        ("mix.cutmix", list(_mixed(china, flower, box=True))),
    ]
    page = Image.new("RGB", (LEFT + 5 * (SIDE + GAP), len(lines) * (SIDE + TEXT + GAP)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, (name, pictures) in enumerate(lines):
        top = i * (SIDE + TEXT + GAP)
        draw.text((2, top + SIDE / 2), name, "black", font)
        for j, (caption, picture) in enumerate(pictures):
            page.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (LEFT + j * (SIDE + GAP), top))
            draw.text((LEFT + j * (SIDE + GAP), top + SIDE), caption, "black", font)
    page.save(FILE, quality=88)


def _square(image: np.ndarray) -> Tensor:
    """The middle, of the page's size, (1, 3, SIDE, SIDE)."""
    middle = Image.fromarray(image[:, 106:533]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(middle).copy()).permute(2, 0, 1).unsqueeze(0)


def _row(image: Tensor, row: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    for number, (caption, settings) in enumerate(row.items()):
        views = recipe(**settings)(image, torch.full((3,), 0.5), torch.ones(3), torch.tensor([number]), [11])
        yield caption, ((views[0][0] + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)


def _by_five() -> list[tuple[str, ...]]:
    return [OPERATIONS[i : i + 5] for i in range(1, len(OPERATIONS), 5)]


def _operations(image: Tensor, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Operations of TrivialAugment, two thirds of the way."""
    for name in names:
        one = (torch.tensor([float(number)]) for number in (OPERATIONS.index(name), 20, 1))
        yield name, Policy(trivial_largest).operated(image, *one)[0]


def _mixed(first: Tensor, second: Tensor, box: bool) -> Iterator[tuple[str, Tensor]]:
    for weight in (0.9, 0.7, 0.5, 0.3, 0.1):
        half = round(SIDE * (1 - weight) ** 0.5 / 2)
        inside = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
        inside[..., SIDE // 2 - half : SIDE // 2 + half, SIDE // 2 - half : SIDE // 2 + half] = box
        share = torch.tensor([1.0 if box else weight])
        pairs = Pairs(torch.tensor([0]), inside, share, torch.tensor([weight]))
        yield f"{weight} of its own", pairs.images(first.float(), second.float())[0].to(torch.uint8)


if __name__ == "__main__":
    main()
