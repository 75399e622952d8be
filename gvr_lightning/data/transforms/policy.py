"""TrivialAugment and RandAugment: operations of torchvision's set, drawn for each image.

Which image gets which operation is known on the device alone, so a device does all to all, and keeps what was drawn:
one gather for the five that move pixels, one blend for four, a step for each of the four that change levels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gvr_lightning.data.transforms.affine import Affine, moved, rotated
from gvr_lightning.data.transforms.colour import blend, grey, mean_grey
from gvr_lightning.data.transforms.kinds import below, changed, each, require_colours
from gvr_lightning.data.transforms.levels import autocontrasted, equalized, posterized, smoothed, solarized

OPERATIONS = (
    *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"),
    *("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"),
)
BINS = 30  # magnitudes are whole numbers up to it
Largest = Callable[[str, int, int], float]  # (operation, H, W) -> its largest magnitude
MOVES = OPERATIONS[1:6]
BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")


def trivial_largest(name: str, height: int, width: int) -> float:
    """Of TrivialAugment Wide."""
    return {"Rotate": 135.0, "TranslateX": 32.0, "TranslateY": 32.0, "Posterize": 6.0}.get(name, 0.99)


def rand_largest(name: str, height: int, width: int) -> float:
    """Of RandAugment."""
    given = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "Posterize": 4.0}
    given |= {"TranslateX": 150 / 331 * width, "TranslateY": 150 / 331 * height}
    return given.get(name, 0.9)


class Policy:
    """Operations one after the other, each drawn for each image, with a sign; and a magnitude.

    TrivialAugment: Müller and Hutter 2021 (arXiv 2103.10158), the wide space. RandAugment: Cubuk et al. 2019 (arXiv
    1909.13719). Both as torchvision's, whose pixels are nearest ones and black outside.

    Args:
        largest: what each operation's largest magnitude is.
        count: of the operations.
        magnitude: 0 to ``bins``; None: drawn.
        bins: what the largest magnitude is divided into.
        bits: lowest ones that Posterize takes away, whatever its magnitude.
    """

    number = 3

    def __init__(
        self, largest: Largest, count: int = 1, magnitude: int | None = None, bins: int = BINS, bits: int = 0
    ) -> None:
        self.largest, self.count, self.magnitude, self.bins, self.bits = largest, count, magnitude, bins, bits
        self.draws = 3 * count

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """See :class:`Transform`."""
        require_colours(images)
        for draw in u.split(3):
            kind, sign = below(draw[0], len(OPERATIONS)), torch.where(draw[2] < 0.5, 1.0, -1.0)
            drawn = below(draw[1], self.bins + 1)
            bin_ = drawn if self.magnitude is None else torch.full_like(drawn, self.magnitude)
            images = self.operated(images, kind, bin_, sign)
        return images

    def operated(self, images: Tensor, kind: Tensor, bin_: Tensor, sign: Tensor) -> Tensor:
        """Each image by its operation (N,), magnitude (N,) of 0..bins, and sign (N,) of 1 or -1."""
        size = images.shape[2:]
        drawn = {name: kind == number for number, name in enumerate(OPERATIONS)}
        share = {name: torch.where(drawn[name], bin_ * (self.largest(name, *size) / self.bins), 0.0) for name in drawn}
        turn = rotated(share["Rotate"] * sign)
        shift_x, shift_y = (-(share[name].floor() * sign) for name in ("TranslateX", "TranslateY"))
        xy, yx = turn.xy + share["ShearX"] * sign, turn.yx + share["ShearY"] * sign
        by = Affine(turn.xx, xy, yx, turn.yy, shift_x, shift_y, torch.where(drawn["Rotate"], turn.about, 0.0))
        images = changed(images, _any(drawn, MOVES), lambda those, *by: moved(those, Affine(*by)), *by)
        factor = 1 + torch.stack([share[name] for name in BLENDS]).sum(0) * sign
        images = changed(images, _any(drawn, BLENDS), _blended, kind, factor)
        lowest = share["Posterize"].round()
        images = changed(images, drawn["Posterize"], posterized, lowest + self.bits if self.bits else lowest)
        images = changed(images, drawn["Solarize"], solarized, 255 - bin_ * (255 / self.bins))
        images = changed(images, drawn["AutoContrast"], autocontrasted)
        return changed(images, drawn["Equalize"], equalized)


def _any(drawn: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([drawn[name] for name in names]).any(0)


def _blended(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """With black, the image's grey, its mean grey or its smoothed self."""
    _, colour, contrast, sharpness = (each(kind == OPERATIONS.index(name)) for name in BLENDS)
    other = torch.where(contrast, mean_grey(images), torch.where(colour, grey(images), 0.0))
    return blend(images, torch.where(sharpness, smoothed(images), other), factor)
