"""The U-Net of DDPM as a split network: diffusers' ``UNet2DModel``, cut before its last up block and its last layer."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gvr_lightning.models.pretrained_unet import load_unet
from gvr_lightning.models.split import Denoiser, SplitNetwork

if TYPE_CHECKING:
    from diffusers.models import UNet2DModel

# of the published networks (Ho et al. 2020; google/ddpm-cifar10-32), where diffusers' defaults are others
PUBLISHED = {"norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "act_fn": "silu"}
PLAIN = {"class_embed_type": None, "num_class_embeds": None, "time_embedding_type": "positional"}


def unet(
    image_shape: tuple[int, int, int],
    num_classes: int,
    widths: Sequence[int],
    blocks: int,
    attention: Sequence[bool],
    dropout: float = 0.0,
    groups: int = 32,
    head_dim: int | None = None,
    weights: str | None = None,
    init: str = "default",
) -> Denoiser:
    """An unconditional U-Net over one tuple, (noisy images (B, C, H, W), steps (B,)); it puts out (B, C, H, W).

    Args:
        image_shape: (C, H, W) of the images; H and W are halved between the levels.
        num_classes: not used; every network's factory takes it.
        widths: channels of each level (resolution), the image's own first; [128, 256, 256, 256] as published.
        blocks: residual blocks a level, and one more on the way up.
        attention: one flag a level, whether it has attention; the bottom between down and up always has.
        dropout: in every residual block.
        groups: of the normalisations, which mix no samples; divides every width.
        head_dim: channels of an attention head, None for one head of all channels.
        weights: a folder that diffusers wrote, of a pipeline or of the model: where the weights come from. What
            does not show in their shapes (groups, head_dim, norm_eps, ...) is then as that folder says.
        init: of the first weights: "default", diffusers', or "published", :func:`as_published`.

    Raises:
        ValueError: for sizes that do not go together, or a folder without such a network.
    """
    from diffusers.models import UNet2DModel

    channels, *size = image_shape
    _check(size, widths, attention, {"groups": groups, "head_dim": head_dim or 1})
    config: dict[str, Any] = PUBLISHED | {
        "sample_size": size[0] if size[0] == size[1] else size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(widths),
        "layers_per_block": blocks,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "dropout": dropout,
        "norm_num_groups": groups,
        "attention_head_dim": head_dim,
    }
    net = UNet2DModel(**config) if weights is None else load_unet(Path(weights), config)
    if init == "published" and weights is None:
        as_published(net)
    return from_diffusers(net).train()


@torch.no_grad()
def as_published(net: "UNet2DModel") -> None:
    """Glorot's uniform weights and biases of zero; those of output layers 1e-5 times as large.

    So it is in the AGR authors' code, after Ho et al. (2020): the last convolution, and the second one of each residual
    block, so that at first a block is nothing but its shortcut, and the prediction is nearly zero. Their code means
    the output of attention, too, and then initialises it again as any other layer.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    outputs = [module.conv2 for module in net.modules() if hasattr(module, "conv2")]
    for layer in [*outputs, net.conv_out]:
        nn.init.xavier_uniform_(layer.weight, gain=1e-5)


def _check(size: Sequence[int], widths: Sequence[int], attention: Sequence[bool], divisors: dict[str, int]) -> None:
    halved = len(widths) - 1
    if len(attention) != len(widths):
        raise ValueError(f"attention={list(attention)} must have one flag for each of widths={list(widths)}")
    for name, value in divisors.items():
        if any(width % value for width in widths):
            raise ValueError(f"{name}={value} must divide every one of widths={list(widths)}")
    if any(side % 2**halved for side in size):
        shape, need = "x".join(map(str, size)), f"sides that {2**halved} divides, or fewer widths and attention flags"
        raise ValueError(f"{shape} images cannot be halved {halved} times for widths={list(widths)}: give {need}")


def from_diffusers(net: "UNet2DModel") -> Denoiser:
    """The same network, cut; it shares the modules and so the weights with ``net``, which stays as it is.

    Raises:
        ValueError: for a network that takes more than images and steps, or does more after its last layer.
    """
    odd = [f"{name}={net.config[name]!r}" for name, plain in PLAIN.items() if net.config[name] != plain]
    if odd := odd + ["skip blocks"] * any(hasattr(block, "skip_conv") for block in net.up_blocks):
        raise ValueError(f"a UNet2DModel with {', '.join(odd)} cannot be cut")
    block: Any = net.up_blocks[-1]
    shell = copy.copy(net)
    shell._modules = dict(net._modules)
    shell._modules["up_blocks"] = nn.ModuleList([*net.up_blocks[:-1], _Stop(len(block.resnets))])
    shell._modules.update({name: nn.Identity() for name in ("conv_norm_out", "conv_act", "conv_out")})
    stage = _LastStage(block, net.conv_norm_out, net.conv_act)
    return UNet(_Early(shell), stage, net.conv_out).train(net.training)


def to_diffusers(network: SplitNetwork) -> "UNet2DModel":
    """A ``UNet2DModel`` of its own with the weights that ``network`` has now, on the same device and in the same mode.

    Raises:
        ValueError: for a network that is not a U-Net of this module.
    """
    from diffusers.models import UNet2DModel

    early = network.backbone.early
    if not isinstance(early, _Early):
        raise ValueError("only a U-Net (model=unet_...) has a form in diffusers")
    weights = {name: w.clone(memory_format=torch.contiguous_format) for name, w in network.state_dict().items()}
    with torch.device("meta"):  # initialises nothing, so that no random number is drawn
        net: UNet2DModel = UNet2DModel.from_config(early.net.config)
    from_diffusers(net).load_state_dict(weights, assign=True)
    return net.train(network.training)


class UNet(Denoiser):
    """diffusers' network, cut."""

    capturable = True


class _Stop(nn.Module):
    """In the last up block's place: hands on what that block would get, (sample, embedding, *residuals)."""

    def __init__(self, residuals: int) -> None:
        super().__init__()
        self.resnets = [None] * residuals  # diffusers' forward hands a block as many residuals as it has of these

    def forward(self, sample: Tensor, residuals: tuple[Tensor, ...], embedding: Tensor) -> tuple[Tensor, ...]:
        return (sample, embedding, *residuals)


class _Early(nn.Module):
    """diffusers' own way to the last up block."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        entering: tuple[Tensor, ...] = self.net(*x, return_dict=False)[0]
        return entering


class _LastStage(nn.Module):
    """The last up block, the normalisation and the activation."""

    def __init__(self, block: nn.Module, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.block, self.norm, self.act = block, norm, act

    def forward(self, entering: tuple[Tensor, ...]) -> Tensor:
        sample, embedding, *residuals = entering
        features: Tensor = self.act(self.norm(self.block(sample, tuple(residuals), embedding)))
        return features
