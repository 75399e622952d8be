"""A classifier of the data's own classes, for images that ImageNet's networks were not made for."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gvr_lightning.checkpoint import load_network
from gvr_lightning.config.trust import names
from gvr_lightning.data.augmentation import Augmentation, normalise
from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.data.image_set import ImageSet, channel_moments
from gvr_lightning.errors import UserError
from gvr_lightning.metrics.cached import cache_path, keep, recall, say
from gvr_lightning.metrics.extractor import Extractor, weights_hash
from gvr_lightning.models.small_cnn import small_cnn
from gvr_lightning.models.split import SplitNetwork
from gvr_lightning.random import hash_key, permutation

VERSION = "v1"  # of the training below: another one makes other weights
WIDTH, BATCH, UPDATES, LR, WEIGHT_DECAY = 16, 64, 600, 0.03, 5e-4
INIT_SEED, ORDER, SHIFT = 0, 1, 2  # what a random number is for


def classifier(
    data: ViewsDataModule,
    checkpoint: str | None = None,
    cache_dir: str | None = None,
    trust: str | Sequence[str] | None = None,
) -> Extractor:
    """Features and logits of a classification network: of a run, or of a small one that is trained on demand.

    The latter has 64 features and is made once for a data set, from its official training images, so that runs which
    train on parts of them are scored alike. Figures of two such networks, which their hashes tell apart, are not
    comparable: to score on several machines, hand one checkpoint around.

    Args:
        data: the images.
        checkpoint: a run's .ckpt; its images had the same shape.
        cache_dir: where the trained network is kept; default: gvr_lightning in the user's cache folder.
        trust: dotted names of networks of others that the checkpoint may name.

    Raises:
        UserError: for a checkpoint that is damaged, of another task or for other images.
    """
    network = _of_data(data, cache_dir) if checkpoint is None else _of_checkpoint(data, checkpoint, names(trust))
    _, height, width = data.image_shape
    num_features = network.network.head.in_features
    return Extractor(network, "classifier", num_features, f"none ({height}x{width} in, as trained)")


class Classifier(nn.Module):
    """uint8 images (N, C, H, W) to features and logits of a network, normalised as it was trained.

    Args:
        network: of normalised images.
        mean: of each channel in [0, 1], or one for all.
        std: likewise.
    """

    def __init__(self, network: SplitNetwork, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network: Any = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and logits (N, K)."""
        features = self.network.backbone(normalise(images, self.mean, self.std))
        return features, self.network.head(features)


def _of_checkpoint(data: ViewsDataModule, checkpoint: str, trust: Sequence[str]) -> Classifier:
    loaded = load_network(Path(checkpoint).expanduser().absolute(), trust=trust)
    if loaded.kind != "classification":
        raise UserError(
            f"extractor.checkpoint={checkpoint} is of task={loaded.kind}: it must be of task=classification"
        )
    theirs, ours = ("x".join(map(str, shape)) for shape in (loaded.image_shape, data.image_shape))
    if theirs != ours:
        raise UserError(f"extractor.checkpoint={checkpoint} is for images {theirs}, and the data's are {ours} (CxHxW)")
    network: Any = loaded.network
    return Classifier(network, loaded.mean, loaded.std)


def _of_data(data: ViewsDataModule, cache_dir: str | None) -> Classifier:
    path = cache_path(cache_dir, "extractors", f"{data.data_hash[:16]}-{VERSION}.pt")
    found = recall(path, lambda path: _read(path, _untrained(data)))
    if found is None:
        assert data.splits is not None, "setup() comes first"
        say(f"training a classifier on {len(data.splits.train.targets):,} images for FID and IS, once: kept as {path}")
        found = _untrained(data)
        _train(found, data.splits.train)
        state = found.state_dict()
        keep(path, lambda temporary: torch.save({"weights": state, "hash": weights_hash(state)}, temporary))
    return found


def _untrained(data: ViewsDataModule) -> Classifier:
    channels, height, width = data.image_shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(INIT_SEED)
        network = small_cnn((channels, height, width), data.num_classes, WIDTH)
    return Classifier(network, torch.zeros(channels), torch.ones(channels))


def _read(path: Path, model: Classifier) -> Classifier:
    """The model with a file's weights. Raises for a damaged file, also where torch does not notice."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if weights_hash(content["weights"]) != content["hash"]:
        raise ValueError("the weights have been changed")
    model.load_state_dict(content["weights"])
    return model


@torch.enable_grad()
def _train(model: Classifier, part: ImageSet) -> None:
    """A fixed number of updates with small shifts; 5 s for 8x8 images and 25 s for 28x28 on one core of a 2020s CPU.

    On the CPU, and without torch's global generator: the same images give the same weights on a machine.
    """
    images, targets = part.images, part.targets
    mean, std = channel_moments(images, torch.arange(len(images)))
    model.mean.copy_(mean)
    model.std.copy_(std)
    shift = Augmentation(padding=min(images.shape[2:]) // 8, flip=False, cutout=0)
    optimizer = torch.optim.SGD(model.network.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=UPDATES, cycle_momentum=False)
    for epoch, rows in islice(_batches(len(images)), UPDATES):
        (view,) = shift(images[rows], mean, std, rows, [hash_key(SHIFT, epoch)])
        loss = F.cross_entropy(model.network(view), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _batches(n: int) -> Iterator[tuple[int, Tensor]]:
    """The epoch and the batches of n samples, for ever."""
    epoch = 0
    while True:
        for rows in permutation(hash_key(ORDER, epoch), n).split(BATCH):
            yield epoch, rows
        epoch += 1
