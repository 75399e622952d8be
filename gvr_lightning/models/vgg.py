"""VGG-11 for images of 32 pixels and more, with BatchNorm (Simonyan and Zisserman 2015, configuration A)."""

import math

from torch import nn

from gvr_lightning.models.split import SplitNetwork

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))  # convolutions, as multiples of the width; the image is halved after each


def vgg11(
    image_shape: tuple[int, int, int], num_classes: int, width: int = 64, hidden: int = 4096, dropout: float = 0.5
) -> SplitNetwork:
    """Eight 3x3 convolutions and three linear layers: 28.5 M parameters for 32x32 images and 100 classes.

    The last stage is the last two convolutions, whose map is 2x2 of 32x32 images, and the two hidden layers.

    Args:
        image_shape: (C, H, W) of the images.
        num_classes: logits.
        width: channels of the first convolution.
        hidden: units of either hidden linear layer.
        dropout: before and behind the second of these.
    """
    channels, *size = image_shape
    stages = []
    for multiples in STAGES:
        layers: list[nn.Module] = []
        for multiple in multiples:
            outputs = multiple * width
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            channels = outputs
        stages.append(nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True)))
    flat = channels * math.prod(-(-side // 2 ** len(STAGES)) for side in size)
    classifier = [nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    classifier += [nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    last_stage = nn.Sequential(stages[-1], *classifier)
    return SplitNetwork(nn.Sequential(*stages[:-1]), last_stage, nn.Linear(hidden, num_classes))
