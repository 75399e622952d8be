"""The Inception network of the published FIDs and ISs."""

import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.download import download, file_hash
from gvr_lightning.errors import UserError
from gvr_lightning.metrics.cached import cache_path
from gvr_lightning.metrics.extractor import Extractor

RESIZE = {
    "tensorflow": "299x299, bilinear as TensorFlow 1 (no antialias)",
    "pytorch_fid": "299x299, bilinear with half-pixel centres (pytorch-fid, no antialias), pixels x / 127.5 - 1",
}
OTHERWISE = "set extractor.weights=<file>, or choose extractor=efficientnet, extractor=classifier or extractor=none"


def inception(
    data: ViewsDataModule, weights: str | None = None, cache_dir: str | None = None, resize: str = "tensorflow"
) -> Extractor:
    """Inception v3 of 2015 as torch-fidelity converted it: 2048 features and 1008 logits without bias.

    Its resize is TensorFlow 1's, as in most published figures, or pytorch-fid's, as in others. Neither is antialiased,
    as torchmetrics' own default is.

    Args:
        data: not used.
        weights: a file; None: the one in the cache folder, or else the published one, downloaded there.
        cache_dir: default: gvr_lightning in the user's cache folder.
        resize: "tensorflow" or "pytorch_fid".

    Raises:
        UserError: without a network, and for weights that are missing, damaged or another network's.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    except ImportError as error:
        raise UserError(f"extractor=inception needs torch-fidelity: pip install torch-fidelity ({error})") from error
    *_, checksum = Path(URL_INCEPTION_V3).stem.split("-")  # what its sha256 begins with
    if weights is None:
        path = cache_path(cache_dir, "extractors", Path(URL_INCEPTION_V3).name)
        _fetch(URL_INCEPTION_V3, path, checksum)
        way_out = f"delete it to download it again, {OTHERWISE}"
    else:
        path, way_out = Path(weights).expanduser().absolute(), OTHERWISE
    if not path.is_file():
        raise UserError(f"there is no weights file {path}: {way_out}")
    try:
        network = _network(path)
        published = file_hash(path, "sha256").startswith(checksum)
    except Exception as error:  # torch raises whatever it met in the file
        raise UserError(
            f"{path} is damaged or holds no weights of this Inception network ({type(error).__name__}): {way_out}"
        ) from error
    name = "inception-v3-compat" if published else "inception-v3-compat with other weights"
    network = AsPytorchFid(network) if resize == "pytorch_fid" else network
    return Extractor(network, name, 2048, RESIZE[resize], colour=True)


class AsPytorchFid(nn.Module):
    """The same network behind pytorch-fid's resize and scale, and under the same names.

    Args:
        network: torch-fidelity's, whose layers stand in the order in which they are passed, the classifier last.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, layer in network.named_children():
            self.add_module(name, layer)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits without bias of uint8 images (N, 3, H, W)."""
        x = F.interpolate(images.float() / 255, size=(299, 299), mode="bilinear", align_corners=False)
        *layers, classifier = self.children()
        assert isinstance(classifier, nn.Linear)
        x = 2 * x - 1
        for layer in layers:
            x = layer(x)
        x = x.flatten(1)
        return x, F.linear(x, classifier.weight)


def _fetch(url: str, path: Path, checksum: str) -> None:
    if path.is_file():
        return
    try:
        download(url, path, checksum, "sha256")
    except UserError as error:
        raise UserError(
            f"the Inception weights are not there ({error}): put {url} there as {path}, {OTHERWISE}"
        ) from error


def _network(path: Path) -> Any:
    """The network with a file's weights; both outputs come from one forward pass."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state, checked = torch.load(path, map_location="cpu", weights_only=True), io.BytesIO()
    torch.save(state, checked)  # the class unpickles what it is given, so that is written here
    checked.seek(0)
    with torch.random.fork_rng(devices=[]):  # its random initialisation
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], checked)
