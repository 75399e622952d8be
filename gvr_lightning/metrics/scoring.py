"""How a run's images are scored: the extractor, the real images to compare with, and the protocol in words."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gvr_lightning.data.datamodule import ViewsDataModule
from gvr_lightning.distributed.batch import rank_and_size
from gvr_lightning.distributed.place import one_a_machine_first
from gvr_lightning.errors import UserError
from gvr_lightning.metrics.cached import say
from gvr_lightning.metrics.extractor import Extractor
from gvr_lightning.metrics.reference import Statistics, cached_statistics
from gvr_lightning.metrics.scores import Scores, require_enough


class Scoring:
    """Fresh FID and IS, against the data's training images.

    Args:
        extractor: images -> features and logits.
        data: whose training images are the reference, all of them.
        num_images: generated ones to score.
        splits: of the inception score.
        allow_few: whether fewer images than features are scored, and marked.
        drawn: in words, how the images are drawn.
        cache_dir: where the reference's statistics are kept.
        further: of the protocol: the weights, the sampler's settings.

    Raises:
        UserError: for too few images, or real ones of another size.
    """

    def __init__(
        self,
        extractor: Extractor,
        data: ViewsDataModule,
        num_images: int,
        splits: int,
        allow_few: bool,
        drawn: str,
        cache_dir: str | None = None,
        further: Mapping[str, Any] | None = None,
    ) -> None:
        images = data.train_images
        if tuple(images.shape[1:]) != data.image_shape:
            raise UserError("data.transform changes the images' size, and FID compares images of one size: set"
                            " data.image_size instead, or extractor=none")  # fmt: skip
        few = require_enough(extractor, num_images, len(images), allow_few)
        if few and rank_and_size()[0] == 0:
            say(f"FID by {extractor.num_features} features of fewer images: unreliable, and marked so in summary.json")
        self.extractor, self.splits, self.cache_dir = extractor, splits, cache_dir
        self.images, self.key = images, f"{data.data_hash[:16]}-train"
        self.reference: Statistics | None = None
        self.extractor_name = {"extractor": extractor.name, "extractor_hash": extractor.hash}
        self.protocol: dict[str, Any] = {
            **self.extractor_name,
            "features": extractor.num_features,
            "resize": extractor.resize,
            "pixels": "rounded to 8 bits",
            "reference": f"all {len(images):,} training images",
            "num_images": num_images,
            "is_splits": splits,
            "drawn": drawn,
            "unreliable": few,  # fewer images than features
            **(further or {}),
        }

    def prepare(self, device: torch.device) -> None:
        """Move the extractor, and look at the real images, if that has not been done."""
        self.extractor.to(device)
        if self.reference is None:
            with one_a_machine_first():
                self.reference = cached_statistics(self.extractor, self.images, self.key, self.cache_dir)

    def scores(self) -> Scores:
        """FID and IS of images that are still to come."""
        assert self.reference is not None, "prepare() comes first"
        return Scores(self.extractor, self.reference, self.splits)

    def of(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """FID and IS of images, uint8 (N, C, H, W)."""
        scores = self.scores()
        for batch in batches:
            scores.update(batch)
        return scores.compute()
