"""Changes of colour, image by image, on bytes: jitter and greyscale."""

import torch
from torch import Tensor

from gvr_lightning.data.transforms.kinds import between, changed, each, require_colours, to_bytes

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # what an image is blended with: black, its mean grey, its own grey


class ColourJitter:
    """Brightness, contrast, saturation and hue, in an order that is drawn for each image.

    Args:
        brightness: factors are from max(0, 1 - this) to 1 + this;
        contrast: likewise;
        saturation: likewise.
        hue: shifts are by up to so much of the circle, either way.
        prob: how often.
    """

    number, draws = 5, 9

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float, prob: float = 1.0) -> None:
        self.strengths, self.hue, self.prob = (brightness, contrast, saturation), hue, prob

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """See :class:`Transform`.

        Hue is by far the dearest, so it is changed once: what comes earlier in an image's order is changed before, the
        rest after.
        """
        require_colours(images)
        jittered = u[8] < self.prob
        factor = torch.stack(
            [between(draw, max(0.0, 1 - s), 1 + s) for draw, s in zip(u, self.strengths, strict=False)]
        )
        order = u[4:8].argsort(0)
        hue_at = (order == HUE).int().argmax(0)
        for at, kind in enumerate(order[:3]):
            images = blended(images, kind, factor, jittered & (at < hue_at))
        if self.hue:
            images = changed(images, jittered, shifted_hue, between(u[HUE], -self.hue, self.hue))
        for at, kind in enumerate(order[1:], 1):
            images = blended(images, kind, factor, jittered & (at > hue_at))
        return images


class Greyscale:
    """Grey images, still of three channels.

    Args:
        prob: how often.
    """

    number, draws = 6, 1

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """See :class:`Transform`."""
        require_colours(images)
        return changed(images, u[0] < self.prob, lambda those: grey(those).to(torch.uint8).expand_as(those))


def grey(images: Tensor) -> Tensor:
    """(N, 1, H, W): the whole number below 0.2989 r + 0.587 g + 0.114 b, as float; sums of whole numbers are exact."""
    if images.shape[1] == 1:
        return images.float()
    levels = images.float()
    parts = 2989 * levels[:, :1] + 5870 * levels[:, 1:2] + 1140 * levels[:, 2:]
    return parts.add_(0.5).div_(10_000).floor_()


def mean_grey(images: Tensor) -> Tensor:
    """(N, 1, 1, 1), of a sum of whole numbers, which has no order."""
    levels = grey(images).long()
    mean: Tensor = levels.sum((1, 2, 3), keepdim=True) / (levels.shape[2] * levels.shape[3])
    return mean


def blended(images: Tensor, kind: Tensor, factor: Tensor, wanted: Tensor) -> Tensor:
    """The sum factor * image + (1 - factor) * what ``kind`` (N,) stands for, of the images that are wanted (N,).

    Args:
        images: uint8.
        kind: BRIGHTNESS, CONTRAST or SATURATION, where it is wanted.
        factor: (3, N), of each kind.
        wanted: (N,).
    """
    return changed(images, wanted, _blended, kind, factor.gather(0, kind.clamp(max=2).unsqueeze(0)).squeeze(0))


def _blended(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    other = torch.where(each(kind == CONTRAST), mean_grey(images), grey(images))
    return blend(images, torch.where(each(kind == BRIGHTNESS), 0.0, other), factor)


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """The sum other + factor * (image - other): what equals the other stays, and all devices round alike."""
    return to_bytes((images.float() - other).mul_(each(factor)).add_(other))


def shifted_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Colours turned by a share of the circle (N,), with value and saturation as they are."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.float().unbind(1)
    value, least = images.float().amax(1), images.float().amin(1)
    spread = value - least
    by = spread.clamp(min=1)
    angle = torch.where(value == green, (blue - red) / by + 2, (red - green) / by + 4)
    angle = torch.where(value == red, (green - blue) / by, angle) + 6 * shift.view(-1, 1, 1)
    channels = []
    for sector in (5, 3, 1):  # how much of the spread each channel loses, by its distance on the circle
        k = (angle + sector).remainder(6)
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp_(0, 1))
    return to_bytes(torch.stack(channels, 1).mul_(255.999 / 255))
