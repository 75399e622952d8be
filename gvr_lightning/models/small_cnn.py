"""A small network for small images."""

from torch import nn

from gvr_lightning.models.split import Pool, SplitNetwork


def _block(inputs: int, outputs: int, groups: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(groups, outputs), nn.ReLU(inplace=True)]


def small_cnn(image_shape: tuple[int, int, int], num_classes: int, width: int = 32, groups: int = 8) -> SplitNetwork:
    """Three stages of two 3x3 convolutions, halving the image between them: 0.29 M parameters at width 32.

    GroupNorm, so that no sample's output depends on the others in its batch: the result does not depend on how the
    batch is divided.

    Args:
        image_shape: (C, H, W) of the images.
        num_classes: logits.
        width: channels of the first stage; the others have twice and four times as many.
        groups: of the normalisation; divides width.

    Raises:
        ValueError: if groups does not divide width.
    """
    if width % groups:
        raise ValueError(f"groups={groups} must divide width={width}")
    w1, w2, w3 = width, 2 * width, 4 * width
    half = nn.MaxPool2d(2, ceil_mode=True)
    early = nn.Sequential(
        *_block(image_shape[0], w1, groups),
        *_block(w1, w1, groups),
        half,
        *_block(w1, w2, groups),
        *_block(w2, w2, groups),
    )
    last_stage = nn.Sequential(half, *_block(w2, w3, groups), *_block(w3, w3, groups), Pool())
    return SplitNetwork(early, last_stage, nn.Linear(w3, num_classes))
