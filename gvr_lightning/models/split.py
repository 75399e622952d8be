"""What every model here is: ``backbone.early -> backbone.last_stage -> head``."""

from collections import OrderedDict

from torch import Tensor, nn


class SplitNetwork(nn.Module):
    """A network cut where the regularizers need it.

    Args:
        early: images (B, C, H, W) to what enters the last stage.
        last_stage: from there to the features (B, D), pooling included.
        head: features to logits (B, classes); linear, for the closed form.
    """

    gives = "classes"  # what a task may need

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

    def compile_backbone(self) -> None:
        """Compile the two parts of the backbone in place; the state dict's keys stay as they are."""
        for part in self.backbone:
            part.compile()


class Denoiser(SplitNetwork):
    """A network from noisy images and their timesteps to images, cut in the same way."""

    gives = "images"


class Pool(nn.Module):
    """Global average pooling, (B, D, H, W) to (B, D); its gradient is deterministic on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean over the pixels."""
        return x.mean((2, 3))
