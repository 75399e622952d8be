"""What every model here is: ``backbone.early -> backbone.last_stage -> head``."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class SplitNetwork(nn.Module):
    """A network cut where the regularizers need it.

    Args:
        early: images (B, C, H, W) to what enters the last stage.
        last_stage: from there to the features (B, D), pooling included.
        head: features to logits (B, classes); linear, for the closed form.
    """

    gives = "classes"  # what a task may need
    capturable = False  # as a CUDA graph: it launches the same for all inputs of a shape, and reads none

    def __init__(self, early: nn.Module, last_stage: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Sequential(OrderedDict(early=early, last_stage=last_stage))
        self.head = head
        # where it is somebody else's network, cut: its own names of the state dict's entries, and those here
        self.plain_names: dict[str, str] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, classes)."""
        logits: Tensor = self.head(self.backbone(x))
        return logits

    @property
    def is_compiled(self) -> bool:
        """Whether the backbone is; a copy is not."""
        return all(part._compiled_call_impl is not None for part in self.backbone)

    def compile_backbone(self, **options: Any) -> None:
        """Compile the two parts of the backbone in place; the state dict's keys stay as they are.

        ``part.compile()`` leaves out what is torch's own code, in some releases (2.6, 2.11) ``nn.Sequential``
        as well: each block within is compiled by itself then, and what stands between blocks not at all.

        Args:
            **options: of ``torch.compile``.
        """
        for part in self.backbone:
            part._compiled_call_impl = torch.compile(_own_frame(part._call_impl), **options)


def _own_frame(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same from a function of this project, with which a graph begins."""

    def run(x: Any) -> Any:
        return call(x)

    return run


class Denoiser(SplitNetwork):
    """A network from noisy images and their timesteps to images, cut in the same way."""

    gives = "images"


class Pool(nn.Module):
    """Global average pooling, (B, D, H, W) to (B, D); its gradient is deterministic on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean over the pixels."""
        return x.mean((2, 3))
