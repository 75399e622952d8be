"""Whole-batch augmentation with its own randomness for each sample and view. Imports torch only."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gvr_lightning.data.transforms.box import Erasing
from gvr_lightning.data.transforms.kinds import Transform
from gvr_lightning.random import hash_key, uniform


class Augmentation:
    """Crop with zero padding, horizontal flip, normalisation and Cutout of a whole batch at once.

    The order and the distributions are those of the published GVR code: black padding before the normalisation, and
    Cutout after it, so that the square has the mean colour. A shift by up to k pixels is a crop with padding k.

    Args:
        padding: pixels of padding for the random crop.
        flip: whether half of the images are mirrored.
        cutout: side of the square that is cut out, 0 for none.
        cutout_prob: how often.
        transforms: of the bytes, in turn, after crop and flip.
        erasing: of a box, after the normalisation; None for none.
    """

    def __init__(
        self,
        padding: int = 4,
        flip: bool = True,
        cutout: int = 16,
        cutout_prob: float = 0.5,
        transforms: Sequence[Transform] = (),
        erasing: Erasing | None = None,
    ) -> None:
        self.padding, self.flip, self.cutout, self.cutout_prob = padding, flip, cutout, cutout_prob
        self.transforms, self.erasing = transforms, erasing

    def __call__(self, images: Tensor, mean: Tensor, std: Tensor, index: Tensor, keys: Sequence[int]) -> list[Tensor]:
        """Views of the images, one for each key.

        Args:
            images: uint8 (B, C, H, W).
            mean: (C,), of the images in [0, 1].
            std: (C,), likewise.
            index: (B,), each image's number in its data set.
            keys: one a view; a view is a pure function of (image, index, key).

        Returns:
            As many float32 tensors (B, C, H, W) as there are keys.
        """
        column = torch.tensor(keys).unsqueeze(1) if index.is_cpu else filled(keys, index.device)
        u = uniform(column, index, 6)  # (6, V, B)
        bytes_ = self._crop_and_flip(images, u[:3])  # as long as possible: a quarter of the traffic
        for transform in self.transforms:
            bytes_ = transform(bytes_.flatten(0, 1), _draws(transform, keys, index)).view_as(bytes_)
        views = bytes_.float()
        views.mul_((1 / (255 * std)).view(-1, 1, 1)).add_((-mean / std).view(-1, 1, 1))
        if self.cutout:
            views.mul_(self._outside(u[3:], images.shape[2], images.shape[3]).unsqueeze(2))
        if self.erasing is not None:
            outside = self.erasing.outside(_draws(self.erasing, keys, index), (images.shape[2], images.shape[3]))
            views.mul_(outside.view(*views.shape[:2], *outside.shape[1:]))
        return list(views.unbind(0))

    def _crop_and_flip(self, images: Tensor, u: Tensor) -> Tensor:
        """One gather of bytes for all views: (B, C, H, W) to (V, B, C, H, W)."""
        (B, C, H, W), V = images.shape, u.shape[1]
        canvas = F.pad(images, [self.padding] * 4)
        width = canvas.shape[3]
        row, column = (torch.arange(n, device=u.device) for n in (H, W))
        upright = (row * width).unsqueeze(1) + column
        pixel = torch.stack([upright, upright.flip(1)]).view(2, H * W)  # of a crop in the corner, and its mirror image
        mirrored = (u[0] < 0.5).long() if self.flip else torch.zeros_like(u[0], dtype=torch.int64)
        top, left = (_below(draw, 2 * self.padding + 1) for draw in u[1:])
        index = pixel.index_select(0, mirrored.flatten()).add_((top * width + left).view(-1, 1)).view(V, B, 1, H * W)
        return canvas.flatten(2).expand(V, -1, -1, -1).gather(3, index.expand(-1, -1, C, -1)).view(V, B, C, H, W)

    def _outside(self, u: Tensor, H: int, W: int) -> Tensor:
        """(V, B, H, W): 0 in the square, whose corner is uniform in [-side//2, n - side//2), 1 elsewhere."""
        outside = []
        for draw, n in ((u[0], H), (u[1], W)):
            offset = torch.arange(n, device=u.device) - (_below(draw, n).unsqueeze(2) - self.cutout // 2)
            outside.append((offset < 0) | (offset >= self.cutout))
        rows, columns = outside[0] | (u[2] >= self.cutout_prob).unsqueeze(2), outside[1]
        return torch.maximum(rows.float().unsqueeze(3), columns.float().unsqueeze(2))


class PerImage:
    """A transform of one's own, such as torchvision's v2, applied image by image, so that each gets its own draw.

    Slower than :class:`Augmentation` by an order of magnitude, and as reproducible: torch's generator is seeded for
    every image by (key, index).

    Args:
        transform: uint8 (C, H, W) -> (C, H, W), uint8 or float in [0, 1]; it may change the size, alike for all images.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, images: Tensor, mean: Tensor, std: Tensor, index: Tensor, keys: Sequence[int]) -> list[Tensor]:
        """As :meth:`Augmentation.__call__`."""
        with torch.random.fork_rng(devices=[]):
            return [normalise(self._images(images, index, key), mean, std) for key in keys]

    def _images(self, images: Tensor, index: Tensor, key: int) -> Tensor:
        if not len(images):  # a process without rows; only a transform knows the size it gives
            return self.transform(images.new_zeros(images.shape[1:])).unsqueeze(0)[:0]
        out = []
        for image, i in zip(images, index.tolist(), strict=True):
            torch.manual_seed(hash_key(key, i))
            out.append(self.transform(image))
        return torch.stack(out)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std by channel; uint8 images count as 0..255, float ones as 0..1. Returns float32 (B, C, H, W)."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def filled(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers as int64 (n, 1), without a copy from the host, for which a step would wait."""
    return torch.stack([torch.full((1,), number, dtype=torch.int64, device=device) for number in numbers])


def _draws(transform: Transform | Erasing, keys: Sequence[int], index: Tensor) -> Tensor:
    """Its own uniform numbers (draws, V * B), whatever other transforms there are."""
    own = filled([hash_key(key, transform.number) for key in keys], index.device)
    return uniform(own, index, transform.draws).flatten(1)


def _below(u: Tensor, n: int) -> Tensor:
    """Integers 0..n-1 from uniform numbers; u * n may round up to n."""
    return (u * n).long().clamp_(max=n - 1)
