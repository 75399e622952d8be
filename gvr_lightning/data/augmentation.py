"""Whole-batch augmentation with its own randomness for each sample and view. Imports torch only."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gvr_lightning.data.transforms.box import Erasing
from gvr_lightning.data.transforms.kinds import Transform
from gvr_lightning.data.transforms.resample import ResizedCrop
from gvr_lightning.methods.upload import upload
from gvr_lightning.random import hash_key, seed_generators, uniform

Tensors = tuple[Tensor, ...]


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
        weak_first: of several views the first is cropped and flipped, and nothing else.
        same_crop: all views of an image are cropped and flipped as the first.
    """

    draws_here = True  # the numbers of the samples may be on the CPU: the draws are made there, and sent by one copy

    def __init__(
        self,
        padding: int = 4,
        flip: bool = True,
        cutout: int = 16,
        cutout_prob: float = 0.5,
        transforms: Sequence[Transform] = (),
        erasing: Erasing | None = None,
        weak_first: bool = False,
        same_crop: bool = False,
    ) -> None:
        self.padding, self.flip, self.cutout, self.cutout_prob = padding, flip, cutout, cutout_prob
        self.transforms, self.erasing, self.weak_first, self.same_crop = transforms, erasing, weak_first, same_crop
        self._kept: dict[object, tuple[Tensors, Tensors]] = {}  # what is the same in every batch

    def __call__(self, images: Tensor, mean: Tensor, std: Tensor, index: Tensor, keys: Sequence[int]) -> list[Tensor]:
        """Views of the images, one for each key.

        Args:
            images: uint8 (B, C, H, W), or (V, B, C, H, W) where each view has its own.
            mean: (C,), of the images in [0, 1].
            std: (C,), likewise.
            index: (B,), each image's number in its data set, on the CPU or where the images are.
            keys: one a view; a view is a pure function of (image, index, key).

        Returns:
            As many float32 tensors (B, C, H, W) as there are keys.
        """
        H, W = images.shape[-2:]
        u = uniform(_column(keys, index), index, 6)  # (6, V, B)
        crops = self.crop_keys(keys)
        if self.same_crop:
            u[:3] = u[:3, :1].clone()
        weak = 1 if self.weak_first and len(keys) > 1 else 0
        draws = upload(torch.stack([*self._corners(u[:3], W), *self._holes(u[3:], H, W)]), images.device)
        bytes_ = self._crop_and_flip(images, draws[:2])  # as long as possible: a quarter of the traffic
        for transform in self.transforms:
            at, of = (0, crops) if getattr(transform, "crops", False) else (weak, keys[weak:])
            own = _draws(transform, of, index, images.device)
            before = _from(bytes_, at)
            after = transform(before.flatten(0, 1), own).view_as(before)
            bytes_ = torch.cat([bytes_[:at], after]) if at else after
        views = bytes_.float()
        scale, shift = self._once("moments", (mean, std), _scale_and_shift)
        views.mul_(scale).add_(shift)
        strong = _from(views, weak)
        if self.cutout:
            strong.mul_(self._outside(draws[2:, weak:] if weak else draws[2:], H, W).unsqueeze(2))
        if self.erasing is not None:
            outside = self.erasing.outside(_draws(self.erasing, keys[weak:], index, images.device), (H, W))
            strong.mul_(outside.view(*strong.shape[:2], *outside.shape[1:]))
        return list(views.unbind(0))

    def before_decoding(self) -> "tuple[ResizedCrop | None, Augmentation]":
        """The random resized crop, for who makes it of the encoded images, and all that comes after it.

        Every transform has random numbers of its own, so that the rest is what it was.
        """
        crop = next((t for t in self.transforms if isinstance(t, ResizedCrop)), None)
        rest = [transform for transform in self.transforms if transform is not crop]
        own = (self.padding, self.flip, self.cutout, self.cutout_prob, rest, self.erasing)
        return crop, Augmentation(*own, self.weak_first, self.same_crop)

    def crop_keys(self, keys: Sequence[int]) -> Sequence[int]:
        """Of each view, by which its crop is drawn."""
        return [keys[0]] * len(keys) if self.same_crop else keys

    def _corners(self, u: Tensor, W: int) -> list[Tensor]:
        """Whether an image is mirrored, and where in the padded image its crop begins: (V, B) each."""
        mirrored = (u[0] < 0.5).long() if self.flip else torch.zeros_like(u[0], dtype=torch.int64)
        top, left = (_below(draw, 2 * self.padding + 1) for draw in u[1:])
        return [mirrored, top * (W + 2 * self.padding) + left]

    def _holes(self, u: Tensor, H: int, W: int) -> list[Tensor]:
        """Twice the middle of the square's rows and columns, of a corner that is uniform in [-side//2, n - side//2)."""
        if not self.cutout:
            return []
        top, left = (_below(draw, n) - self.cutout // 2 for draw, n in ((u[0], H), (u[1], W)))
        top.masked_fill_(u[2] >= self.cutout_prob, H)  # below the image
        return [2 * top + (self.cutout - 1), 2 * left + (self.cutout - 1)]

    def _crop_and_flip(self, images: Tensor, draws: Tensor) -> Tensor:
        """One gather of bytes for all views: (B, C, H, W), or already (V, B, C, H, W), to (V, B, C, H, W)."""
        (B, C, H, W), V, (mirrored, corner) = images.shape[-4:], draws.shape[1], draws
        if not (self.padding or self.flip):
            return images.expand(V, B, C, H, W)
        if not self.padding:  # bits change where they differ from the mirror's: a gather reads nine times as much
            every_bit = mirrored.view(V, B, 1, 1, 1).to(torch.uint8).neg()
            changed: Tensor = images.flip(-1).bitwise_xor_(images) & every_bit
            return changed.bitwise_xor_(images)
        canvas = F.pad(images, [self.padding] * 4)
        (pixel,) = self._once((H, W, images.device), (), lambda: (_pixels(H, W, canvas.shape[-1], images.device),))
        index = pixel.index_select(0, mirrored.flatten()).add_(corner.reshape(-1, 1)).view(V, B, 1, H * W)
        return canvas.flatten(-2).expand(V, B, C, -1).gather(3, index.expand(-1, -1, C, -1)).view(V, B, C, H, W)

    def _outside(self, middles: Tensor, H: int, W: int) -> Tensor:
        """(V, B, H, W): 0 in the square, 1 elsewhere."""
        n, device = max(H, W), middles.device
        (places,) = self._once((n, device), (), lambda: (2 * torch.arange(n, device=device),))
        outside = (places - middles.unsqueeze(3)).abs_().ge(self.cutout).float()
        return torch.maximum(outside[0, :, :, :H].unsqueeze(3), outside[1, :, :, :W].unsqueeze(2))

    def _once(self, name: object, given: Tensors, make: Callable[..., Tensors]) -> Tensors:
        """What is made of these tensors, made once, and not by the device in every batch."""
        kept = self._kept.get(name)
        if kept is None or any(a is not b for a, b in zip(kept[0], given, strict=True)):
            kept = self._kept[name] = given, make(*given)
        return kept[1]


class PerImage:
    """A transform of one's own, such as torchvision's v2, applied image by image, so that each gets its own draw.

    Slower than :class:`Augmentation` by an order of magnitude, and as reproducible: torch's generator is seeded for
    every image by (key, index).

    Args:
        transform: uint8 (C, H, W) -> (C, H, W), uint8 or float in [0, 1]; it may change the size, alike for all images.
    """

    draws_here = True

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, images: Tensor, mean: Tensor, std: Tensor, index: Tensor, keys: Sequence[int]) -> list[Tensor]:
        """As :meth:`Augmentation.__call__`."""
        return normalised(self.views(images, index, keys), mean, std)

    def views(self, images: Tensor, index: Tensor, keys: Sequence[int]) -> Tensor:
        """The same before normalisation, (V, B, C, H, W)."""
        with torch.random.fork_rng(devices=[]):
            return torch.stack([self._images(images, index, key) for key in keys])

    def _images(self, images: Tensor, index: Tensor, key: int) -> Tensor:
        if not len(images):  # a process without rows; only a transform knows the size it gives
            return self.transform(images.new_zeros(images.shape[1:])).unsqueeze(0)[:0]
        out = []
        for image, i in zip(images, index.tolist(), strict=True):
            seed_generators(hash_key(key, i), images.device)
            out.append(self.transform(image))
        return torch.stack(out)


def normalised(views: Tensor, mean: Tensor, std: Tensor, *_: object) -> list[Tensor]:
    """What is left of an augmentation where the views (V, B, C, H, W) have been made."""
    return [normalise(view, mean, std) for view in views]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std by channel; uint8 images count as 0..255, float ones as 0..1. Returns float32 (B, C, H, W)."""
    images = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
    return (images - mean.view(1, -1, 1, 1)).div_(std.view(1, -1, 1, 1))  # in place: fewer large tensors


def filled(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers as int64 (n, 1), without a copy from the host, for which a step would wait."""
    return torch.stack([torch.full((1,), number, dtype=torch.int64, device=device) for number in numbers])


def draws_of(transform: Transform | Erasing, keys: Sequence[int], index: Tensor) -> Tensor:
    """Its own uniform numbers (draws, V, B), whatever other transforms there are."""
    own = [hash_key(key, transform.number) for key in keys]
    return uniform(_column(own, index), index, transform.draws)


def _draws(transform: Transform | Erasing, keys: Sequence[int], index: Tensor, device: torch.device) -> Tensor:
    return upload(draws_of(transform, keys, index).flatten(1), device)


def _from(views: Tensor, first: int) -> Tensor:
    """All views from one on."""
    return views[first:] if first else views


def _column(numbers: Sequence[int], index: Tensor) -> Tensor:
    """Whole numbers (V, 1) where the samples' are."""
    return torch.tensor(numbers).unsqueeze(1) if index.is_cpu else filled(numbers, index.device)


def _pixels(H: int, W: int, width: int, device: torch.device) -> Tensor:
    """(2, H W): the pixels of a crop in the corner of images so wide, and of its mirror image."""
    row, column = (torch.arange(n, device=device) for n in (H, W))
    upright = (row * width).unsqueeze(1) + column
    return torch.stack([upright, upright.flip(1)]).view(2, H * W)


def _scale_and_shift(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """What makes (x / 255 - mean) / std of a byte x, by channel."""
    return (1 / (255 * std)).view(-1, 1, 1), (-mean / std).view(-1, 1, 1)


def _below(u: Tensor, n: int) -> Tensor:
    """Integers 0..n-1 from uniform numbers; u * n may round up to n."""
    return (u * n).long().clamp_(max=n - 1)
