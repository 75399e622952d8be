"""mixup and CutMix: two samples of the global batch become one, and so do their labels."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gvr_lightning.data.batch import Batch
from gvr_lightning.data.transforms.box import first_that
from gvr_lightning.data.transforms.kinds import below, exact
from gvr_lightning.methods.upload import upload
from gvr_lightning.random import uniform

TRIALS = 8  # of a gamma variate, of which 19 in 20 are accepted at least
GAMMA_DRAWS = 3 * TRIALS + 1


class Pairs(NamedTuple):
    """What each of some rows is mixed with: a row's partner, and which pixels and what share of it."""

    partner: Tensor  # (n,), among the rows of the global batch; on the CPU
    inside: Tensor  # (n, 1, H, W), where the pixels are the partner's
    fade: Tensor  # (n,), share of the row's own pixels elsewhere
    weight: Tensor  # (n,), share of its own label

    def images(self, own: Tensor, partners: Tensor) -> Tensor:
        """Mixed images (n, C, H, W)."""
        fade = self.fade.view(-1, 1, 1, 1)
        return torch.where(self.inside, partners, own * fade + partners * (1 - fade))

    def labels(self, own: Tensor, partners: Tensor, classes: int) -> Tensor:
        """Soft labels (n, classes)."""
        number = torch.arange(classes, device=own.device)
        first, second = (labels.unsqueeze(1) == number for labels in (own, partners))
        return first * self.weight.unsqueeze(1) + second * (1 - self.weight).unsqueeze(1)

    def heavier(self, own: Tensor, partners: Tensor) -> Tensor:
        """The label of the larger share."""
        return torch.where(self.weight >= 0.5, own, partners)


def mixed(batch: Batch, pairs: Sequence[Pairs], partners: Callable[[Tensor], Batch], classes: int) -> Batch:
    """A batch whose samples are mixed, with soft labels.

    Args:
        batch: this process's rows.
        pairs: of each view; or those of all of them.
        partners: rows of the global batch -> their views and labels.
        classes: how many there are.
    """
    found = [(pair, partners(pair.partner)) for pair in pairs]
    of_views = found * (len(batch.views) // len(found))
    views = [
        pair.images(own, other.views[v])
        for v, (own, (pair, other)) in enumerate(zip(batch.views, of_views, strict=True))
    ]
    target = [pair.labels(batch.target, other.target, classes) for pair, other in found]
    true = [] if batch.true is None else [pair.heavier(batch.true, other.true) for pair, other in found]
    if len(found) == 1:
        return batch._replace(views=views, target=target[0], true=true[0] if true else None)
    return batch._replace(views=views, target=target, true=true or None)


class Mixing:
    """What is drawn for each sample: whether, how, with which other row, and with which share, of Beta(alpha, alpha).

    The partners of a batch are a permutation of it. Every number is a function of a key and of the batch's sample
    numbers, so each process knows all pairs, and makes of the partners' views what it needs.

    Zhang et al. 2017 (arXiv 1710.09412); Yun et al. 2019 (arXiv 1905.04899), with boxes as torchvision's.

    Args:
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none; with both, each has half of the samples.
        prob: how often a sample is mixed.
        independent: whether each view has a partner and a share of its own.
    """

    def __init__(self, mixup: float = 0.0, cutmix: float = 0.0, prob: float = 1.0, independent: bool = False) -> None:
        self.mixup, self.cutmix, self.prob, self.independent = mixup, cutmix, prob, independent

    def pairs(self, key: int, index: Tensor, here: Tensor, size: tuple[int, int], device: torch.device) -> Pairs:
        """Those of some rows.

        Args:
            key: of the draws.
            index: (B,), the sample numbers of the global batch, on the CPU, where the draws are made.
            here: (n,), which of its rows are wanted, likewise.
            size: (H, W) of the images.
            device: where they are; all but the partners' numbers is sent there.
        """
        partner = uniform(key, index, 1)[0].argsort()[here]
        u = uniform(key, index[here], 5 + 2 * GAMMA_DRAWS)[1:]
        mixed, cuts = u[0] < self.prob, u[1] < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        share = torch.where(cuts, beta(u[4:], self.cutmix or 1.0), beta(u[4:], self.mixup or 1.0))
        ends, area = [], torch.ones_like(share)
        for draw, n in zip(u[2:4], size, strict=True):
            middle, half = below(draw, n), ((1 - share).sqrt() * (0.5 * n)).floor()
            low, high = (middle - half).clamp(min=0), (middle + half).clamp(max=n)
            ends += [low, high]
            area = area * (high - low)
        cut, fade = mixed & cuts, torch.where(mixed & ~cuts, share, 1.0)
        weight = torch.where(cut, 1 - area / (size[0] * size[1]), fade)
        *ends, cut, fade, weight = upload(torch.stack([*ends, cut.float(), fade, weight]), device).unbind()
        rows, columns = (_between(ends[2 * i], ends[2 * i + 1], n) for i, n in enumerate(size))
        inside = rows.unsqueeze(2) & columns.unsqueeze(1) & (cut > 0).view(-1, 1, 1)
        return Pairs(partner, inside.unsqueeze(1), fade, weight)


def _between(low: Tensor, high: Tensor, n: int) -> Tensor:
    """Which of n pixels are there, (rows, n)."""
    pixel = torch.arange(n, device=low.device)
    return (pixel >= low.unsqueeze(1)) & (pixel < high.unsqueeze(1))


def beta(u: Tensor, alpha: float) -> Tensor:
    """Numbers (n,) of Beta(alpha, alpha), float32, from uniform ones (2 * GAMMA_DRAWS, n)."""
    first, second = (log_gamma(exact(draws), alpha) for draws in u.split(GAMMA_DRAWS))
    return (first - second).sigmoid().float()


def log_gamma(u: Tensor, shape: float) -> Tensor:
    """Logarithms (n,) of Gamma(shape) variates, from uniform numbers (GAMMA_DRAWS, n).

    Marsaglia and Tsang 2000, the first of some trials that is accepted; a shape below 1 by that of one more.
    """
    u = u + 2.0**-25  # never 0
    a, b, accepts = u[:-1].split(TRIALS)
    normal = (-2 * a.log()).sqrt() * (2 * math.pi * b).cos()
    d = (shape if shape >= 1 else shape + 1) - 1 / 3
    v = (1 + normal / math.sqrt(9 * d)) ** 3
    log_v = v.clamp(min=1e-12).log()
    _, found = first_that((v > 0) & (accepts.log() < normal**2 / 2 + d - d * v + d * log_v), log_v)
    return found + math.log(d) + (0 if shape >= 1 else u[-1].log() / shape)
