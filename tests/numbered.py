"""A data set whose images say which they are, and a network that writes down what it is shown.

Given to a run by ``data.source._target_=numbered.Numbered`` and ``model._target_=numbered.watching``, as a user's own
code is: so a test sees what reaches the network, wherever in the project it comes from.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gvr_lightning.data.image_set import ImageSet, Splits, content_hash
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.optim.schedules import Schedule

SEEN = "NUMBERED_SEEN"  # the environment's name for the file that the network writes to
TEST = 30_000  # test images are numbered from here on


class Numbered:
    """Images of noise that hold their number; the label is number % classes, and makes one column brighter.

    Of one channel the first two pixels are the number, number // 256 and number % 256; of more the whole first and the
    whole second channel, which crops and mirror images leave.

    Args:
        train: images for training, 0, 1, ...
        test: test images, TEST, TEST + 1, ...
        height: of the images.
        width: of the images.
        channels: of the images; each has another brightness.
        classes: how many.
        seed: of the noise.
    """

    def __init__(
        self,
        train: int = 90,
        test: int = 40,
        height: int = 8,
        width: int = 8,
        channels: int = 1,
        classes: int = 4,
        seed: int = 0,
    ) -> None:
        self.counts, self.shape, self.classes, self.seed = (train, test), (channels, height, width), classes, seed

    def __call__(self) -> Splits:
        """Both parts."""
        random = np.random.RandomState(self.seed)
        train, test = (self._part(random, first, n) for first, n in zip((0, TEST), self.counts, strict=True))
        return Splits(train, test, tuple("abcdefghijkl"[: self.classes]), content_hash(train, test))

    def _part(self, random: np.random.RandomState, first: int, n: int) -> ImageSet:
        numbers = first + np.arange(n)
        images = random.randint(0, 120, (n, *self.shape)) + 40 * np.arange(self.shape[0])[None, :, None, None]
        images[np.arange(n), -1, 2:, numbers % self.classes] += 50
        high, low = numbers // 256, numbers % 256
        if self.shape[0] == 1:
            images[:, 0, 0, 0], images[:, 0, 0, 1] = high, low
        else:
            images[:, 0], images[:, 1] = high[:, None, None], low[:, None, None]
        return ImageSet(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(numbers % self.classes))


# what a run needs for its images to arrive as they are
PLAIN = [
    "data.source._target_=numbered.Numbered",
    *("data.augmentation.padding=0", "data.augmentation.flip=false", "data.augmentation.cutout=0"),
    *("data.mean=[0.0]", "data.std=[1.0]", "data.max_train=null"),
]
WATCHED = [*PLAIN, "model._target_=numbered.watching", "~model.width", "~model.groups"]


def numbers(x: Tensor) -> list[int]:
    """Of images (B, C, H, W) in [0, 1] that are neither shifted nor cut, or of several channels."""
    middle = x.shape[2] // 2, x.shape[3] // 2
    high, low = (x[:, 0, 0, 0], x[:, 0, 0, 1]) if x.shape[1] == 1 else (x[:, i, middle[0], middle[1]] for i in (0, 1))
    return (256 * (high.double() * 255).round() + (low.double() * 255).round()).long().tolist()


class _Watch(nn.Module):
    """Writes the images' numbers to the file, with whether the network is trained, and passes them on."""

    def forward(self, x: Tensor) -> Tensor:
        if SEEN in os.environ and len(x) and not x.is_meta:
            line = {"training": self.training, "numbers": numbers(x), "sums": x.double().sum((1, 2, 3)).tolist()}
            with Path(os.environ[SEEN]).open("a") as file:
                file.write(json.dumps(line) + "\n")
        return 8 * x - 3  # about as bright as networks like it


def watching(image_shape: tuple[int, int, int], num_classes: int) -> SplitNetwork:
    """A small network that is given its images as they are in [0, 1]."""
    early = nn.Sequential(_Watch(), nn.Conv2d(image_shape[0], 4, 3, padding=1), nn.ReLU())
    stage = nn.Sequential(nn.Flatten(), nn.Linear(4 * image_shape[1] * image_shape[2], 16), nn.ReLU())
    return SplitNetwork(early, stage, nn.Linear(16, num_classes))


def constant(image_shape: tuple[int, int, int], num_classes: int, dropout: float = 0.0) -> SplitNetwork:
    """A linear network whose first weights are always the same, so that no seed acts through them."""
    size = image_shape[0] * image_shape[1] * image_shape[2]
    network = SplitNetwork(
        nn.Flatten(), nn.Sequential(nn.Linear(size, 6), nn.Tanh(), nn.Dropout(dropout)), nn.Linear(6, num_classes)
    )
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.copy_(0.1 * torch.cos(torch.arange(parameter.numel()) + i).view_as(parameter))
    return network


def breaking(optimizer: Optimizer, steps: int, epochs: int) -> Schedule:
    """The learning rate as it is; in the last epoch it is negative, which unlearns."""
    return Schedule(LambdaLR(optimizer, lambda epoch: 1.0 if epoch < epochs - 1 else -1.0), "epoch")


def seen(path: Path) -> list[dict[str, Any]]:
    """What the network was shown, a batch a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
