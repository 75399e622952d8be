"""FID and IS of generated images, by torchmetrics, from features and logits that are computed once."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gvr_lightning.errors import UserError
from gvr_lightning.metrics.cached import say
from gvr_lightning.metrics.extractor import Extractor
from gvr_lightning.metrics.reference import BLOCK, Statistics, extract

ROUNDING = 1e-4  # of the variance of both sides: a FID may be so much below 0
SHUFFLE_SEED = 0  # of the images before they are split for IS


class _Given(nn.Module):
    """What torchmetrics takes for its network, if the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class Scores:
    """FID (Heusel et al. 2017) and IS (Salimans et al. 2016) of images that come in any batches, in float64.

    The same images in the same order have the same scores to the last bit, however they are divided into batches.

    Args:
        extractor: gives features and logits.
        reference: of the images to compare with, by the same extractor.
        splits: of the images, for the spread of IS; at most as many as there are images.
    """

    def __init__(self, extractor: Extractor, reference: Statistics, splits: int = 10) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.inception import InceptionScore

        self.extractor, self.reference, self.splits = extractor, reference, splits
        given: Any = _Given(extractor.num_features)
        self._fid = FrechetInceptionDistance(given, sync_on_compute=False)
        self._fid.real_features_sum = reference.total
        self._fid.real_features_cov_sum = reference.outer
        self._fid.real_features_num_samples = torch.tensor(reference.count)
        with warnings.catch_warnings():  # that it keeps all logits, which are few
            warnings.simplefilter("ignore", UserWarning)
            self._is = InceptionScore(given, splits, sync_on_compute=False)
        self._waiting: Tensor | None = None  # fewer than a block

    def update(self, images: Tensor) -> None:
        """Add generated images, uint8 (N, C, H, W), on any device; of several processes every one adds the same."""
        if self._waiting is not None:
            images = torch.cat([self._waiting, images])
        whole = len(images) // BLOCK * BLOCK
        self._extract(images[:whole])
        self._waiting = images[whole:].clone()  # the caller may fill its batch anew

    def compute(self) -> dict[str, float]:
        """``fid``, ``is/mean``, ``is/std`` and ``num_images``, once all images are there.

        Raises:
            UserError: for fewer than two images.
        """
        if self._waiting is not None:
            self._extract(self._waiting)
            self._waiting = None
        n = int(self._fid.fake_features_num_samples)
        if n < 2:
            raise UserError(f"FID and IS need two images at least, and here are {n}")
        self._is.splits = max(2, min(self.splits, n))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SHUFFLE_SEED)
            mean, std = self._is.compute()
        return {"fid": self._compute_fid(n), "is/mean": float(mean), "is/std": float(std), "num_images": n}

    def _extract(self, images: Tensor) -> None:
        for features, logits in extract(self.extractor, images, together=True):
            self._fid.update(features, real=False)
            self._is.update(logits)

    def _compute_fid(self, n: int) -> float:
        """Rounding below 0 is cut off; what is more than that shows, and is told."""
        fid = float(self._fid.compute())
        generated = Statistics(self._fid.fake_features_sum, self._fid.fake_features_cov_sum, n)
        if fid < -ROUNDING * (self.reference.variance() + generated.variance()):
            say(f"FID {fid:.4g} is below 0 by more than rounding: the reference is not of this extractor's features")
            return fid
        return max(fid, 0.0)


def require_enough(extractor: Extractor, num_generated: int, num_reference: int, allow_few: bool) -> bool:
    """Whether there are too few images for FID, if that is allowed: a figure that must be marked as unreliable.

    The covariance of D features of D images or fewer is singular, and FID is then biased by far more than what it is to
    show.

    Raises:
        UserError: if there are too few and that is not allowed.
    """
    needed = extractor.num_features + 1
    if min(num_generated, num_reference) >= needed:
        return False
    if not allow_few:
        more = f"generation.num_images={needed}"
        ways = [more] if num_reference >= needed else []
        ways += ["extractor=classifier"] if extractor.name != "classifier" else []
        raise UserError(
            f"FID by the {extractor.num_features} features of {extractor.name} needs {needed} images or more on either"
            f" side, and there are {num_generated} generated and {num_reference} real ones:"
            f" set {' or '.join([*ways, 'generation.allow_few=true'])}"
        )
    return True
