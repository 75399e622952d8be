"""Residual networks for 32x32 images: a 3x3 stem and no max-pooling.

ResNet-18 is the published GVR runs' network, ResNet-20 that of He et al. (2015, section 4.2) with projection
shortcuts, the wide network that of Zagoruyko and Komodakis (2016). Initialised as torch does by default.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from gvr_lightning.models.split import Pool, SplitNetwork


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class _Block(nn.Module):
    """relu(residual(x) + shortcut(x)); the shortcut is a 1x1 convolution where the sizes differ."""

    def __init__(self, residual: nn.Module, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""
        out: Tensor = self.relu(self.residual(x) + self.shortcut(x))
        return out


class BasicBlock(_Block):
    """Two 3x3 convolutions with BatchNorm and a shortcut, (B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        residual = nn.Sequential(
            _conv3x3(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            _conv3x3(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        super().__init__(residual, inputs, outputs, stride)


class Bottleneck(_Block):
    """A 1x1, a 3x3 and a 1x1 convolution with BatchNorm and a shortcut, the last to ``expansion`` times ``width``."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        outputs = self.expansion * width
        residual = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _conv3x3(width, width, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        super().__init__(residual, inputs, outputs, stride)


class WideBlock(nn.Module):
    """Pre-activation block with dropout between its convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            _conv3x3(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            _conv3x3(outputs, outputs),
        )
        self.projection = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs or stride != 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """A projecting shortcut starts after the activation, an identity before it."""
        active = self.activation(x)
        residual: Tensor = self.residual(active)
        return residual + (x if self.projection is None else self.projection(active))


def resnet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    widths: Sequence[int],
    blocks: int | Sequence[int],
    bottleneck: bool = False,
) -> SplitNetwork:
    """Stages of ``blocks`` blocks each, halving the image between stages; the last one is the last stage.

    Args:
        image_shape: (C, H, W) of the images.
        num_classes: logits.
        widths: channels, one entry a stage.
        blocks: blocks a stage, or one entry a stage.
        bottleneck: the blocks of ResNet-50 and deeper ones.

    Raises:
        ValueError: for another number of entries.
    """
    numbers = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
    if len(numbers) != len(widths):
        raise ValueError(f"blocks={numbers} must have one entry for each of widths={list(widths)}")
    make, expansion = (Bottleneck, Bottleneck.expansion) if bottleneck else (BasicBlock, 1)
    stem = nn.Sequential(_conv3x3(image_shape[0], widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
    inputs = [widths[0], *(expansion * width for width in widths[:-1])]
    stages = [
        nn.Sequential(*(make(expansion * w if b else i, w, 1 if b or s == 0 else 2) for b in range(number)))
        for s, (i, w, number) in enumerate(zip(inputs, widths, numbers, strict=True))
    ]
    last = nn.Sequential(stages[-1], Pool())
    return SplitNetwork(nn.Sequential(stem, *stages[:-1]), last, nn.Linear(expansion * widths[-1], num_classes))


def wide_resnet(
    image_shape: tuple[int, int, int], num_classes: int, depth: int = 28, widen: int = 10, dropout: float = 0.0
) -> SplitNetwork:
    """WRN-depth-widen; 36.5 M parameters for WRN-28-10 and ten classes.

    Raises:
        ValueError: if depth is not 6 n + 4.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6 n + 4 (10, 16, 22, 28, 40), got {depth}")
    blocks, widths = (depth - 4) // 6, [16 * widen, 32 * widen, 64 * widen]
    stages = [
        nn.Sequential(*(WideBlock(w if b else i, w, 1 if b or s == 0 else 2, dropout) for b in range(blocks)))
        for s, (i, w) in enumerate(zip([16, *widths[:-1]], widths, strict=True))
    ]
    last = nn.Sequential(stages[-1], nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True), Pool())
    early = nn.Sequential(_conv3x3(image_shape[0], 16), *stages[:-1])
    return SplitNetwork(early, last, nn.Linear(widths[-1], num_classes))
