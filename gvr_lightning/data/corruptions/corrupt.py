"""Images as bytes under a corruption of a kind and severity, with the constants of CIFAR-10-C.

Hendrycks and Dietterich 2019 (arXiv 1903.12261), whose make_cifar_c.py has the constants for images of 32 pixels; they
are taken for images of any size. What is drawn is a pure function of (seed, sample, kind, severity).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.data.corruptions import noise, still
from gvr_lightning.data.transforms.kinds import exact
from gvr_lightning.errors import UserError
from gvr_lightning.random import hash_key, uniform

Settings = tuple[tuple[Any, ...], ...]  # for each of the five severities
NOISE: dict[str, tuple[Callable[..., Tensor], Settings]] = {
    "gaussian_noise": (noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.1,))),
    "shot_noise": (noise.shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": (noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
}
STILL: dict[str, tuple[Callable[..., Tensor], Settings]] = {
    "defocus_blur": (still.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "brightness": (still.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": (still.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "pixelate": (still.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "jpeg_compression": (still.jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
}
OF_COLOURS = ("brightness", "jpeg_compression")
NUMBER = {kind: number for number, kind in enumerate([*NOISE, *STILL])}  # in the order in which kinds came
MOST = 2**22  # values that are worked on at a time
NEARLY = 1e-6  # of a level: a whole number stays one, however its sum was rounded


def corrupted(images: Tensor, index: Tensor, kind: str, severity: int, seed: int) -> Tensor:
    """The images under a corruption, as bytes; the published code cuts to the level below, and so does this.

    Args:
        images: uint8 (N, C, H, W).
        index: (N,), each image's number in its data set.
        kind: one of those above.
        severity: 1 to 5.
        seed: of what is drawn.

    Raises:
        UserError: for a kind that needs colours, and images that have none.
    """
    if kind in OF_COLOURS and images.shape[1] not in (1, 3):
        raise UserError(f"data.corruption: {kind} needs images of 1 or 3 channels, not {images.shape[1]}")
    key, shape = hash_key(seed, NUMBER[kind], severity), images.shape[1:]
    change, settings = {**NOISE, **STILL}[kind]

    def part(some: Tensor, numbers: Tensor) -> Tensor:
        x = exact(some) / 255
        drawn = [exact(uniform(key, numbers, shape.numel()).T.reshape(x.shape))] if kind in NOISE else []
        levels = change(x, *drawn, *settings[severity - 1]) * 255
        return (levels + NEARLY).clamp_(0, 255).to(torch.uint8)

    rows = max(1, MOST // shape.numel())
    if not len(images):
        return images
    parts = zip(images.split(rows), index.to(images.device).split(rows), strict=True)
    return torch.cat([part(some, numbers) for some, numbers in parts])
