"""What FID and IS look at: features and logits of images, by a network that stays as it is. Imports torch only."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Extractor:
    """A fixed network, in evaluation mode and float32 whatever the run's own precision.

    No module: its weights must not get into an optimizer, a moving average or a checkpoint.

    Args:
        network: uint8 (N, C, H, W) -> features (N, D) and logits (N, K).
        name: for the protocol.
        num_features: D.
        resize: in words, what happens to the images' size, for the protocol.
        colour: whether the network takes three channels only; grey images are repeated then.
    """

    def __init__(self, network: nn.Module, name: str, num_features: int, resize: str, colour: bool = False) -> None:
        self.network = network.float().eval().requires_grad_(False)
        self.name, self.num_features, self.resize, self.colour = name, num_features, resize, colour
        self.hash = weights_hash(network.state_dict())
        self.device = torch.device("cpu")

    @property
    def identity(self) -> str:
        """The sha256, in hex, of all that features depend on: two sizes of one network share its weights."""
        return hashlib.sha256(repr((self.name, self.resize, self.hash)).encode()).hexdigest()

    def to(self, device: torch.device | str) -> "Extractor":
        """Move the network, in place."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, K) of uint8 images (N, C, H, W), float32 on the extractor's device.

        Raises:
            ValueError: for anything but bytes.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if self.colour and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        whole_float32 = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.autocast(self.device.type, enabled=False), whole_float32:
            features, logits = self.network(images.to(self.device))
        return features.float(), logits.float()


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """The sha256, in hex, over names, types, shapes and bytes of some tensors, whatever their order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
