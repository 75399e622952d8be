"""Draws pages/corruption.png: each corruption of a bundled image at its three severities: python docs/corruption.py."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images
from torch import Tensor

from gvr_lightning.config.corruption import KINDS, SEVERITIES
from gvr_lightning.data.corruptions.corrupt import corrupted

FILE = Path(__file__).parent / "pages" / "corruption.png"
SIDE, SCALE, GAP, TOP, LEFT = 32, 3, 4, 34, 16  # the constants are for images of 32 pixels, drawn three times as large


def main() -> None:
    """A column a kind, a row a severity, the image itself first."""
    flower = load_sample_images().images[1][:, 106:533]
    small = Image.fromarray(flower).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    image = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).unsqueeze(0)
    step = SIDE * SCALE + GAP
    page = Image.new("RGB", (LEFT + len(KINDS) * step, TOP + (1 + len(SEVERITIES)) * step), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for column, kind in enumerate(KINDS):
        draw.multiline_text((LEFT + column * step, 2), kind.replace("_", "\n"), "black", font, spacing=1)
        for row, severity in enumerate((0, *SEVERITIES)):
            made = corrupted(image, torch.tensor([0]), kind, severity, 3) if severity else image
            page.paste(_enlarged(made), (LEFT + column * step, TOP + row * step))
            draw.text((3, TOP + row * step + step / 2), str(severity), "black", font)
    page.save(FILE, optimize=True)


def _enlarged(image: Tensor) -> Image.Image:
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    return picture.resize((SIDE * SCALE, SIDE * SCALE), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
