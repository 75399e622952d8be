"""AugMix: an image mixed with what several chains of operations make of it."""

import torch
from torch import Tensor

from gvr_lightning.data.transforms.kinds import below, each, exact, require_colours, to_bytes
from gvr_lightning.data.transforms.policy import MOVES, OPERATIONS, Policy

WIDTH, DEPTH, LEVELS = 3, 3, 10  # chains, operations of one at most, magnitudes
PARTS = 2**14  # that a weight of 1 has: sums with bytes are exact, whatever their order
AFTER = OPERATIONS.index("Posterize") - len(MOVES) - 1  # operations between the moves and the last four: left out


def augmix_largest(name: str, height: int, width: int) -> float:
    """Each operation's largest magnitude; of Posterize on top of four bits."""
    given = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": width / 3, "TranslateY": height / 3}
    return {**given, "Rotate": 30.0, "Posterize": 4.0}.get(name, 0.0)


class AugMix:
    """Three chains of one to three operations, each drawn for each image, averaged by Dirichlet weights with the image.

    Hendrycks et al. 2020 (arXiv 1912.02781): the nine operations that are none of the test's corruptions, all
    distributions with parameter 1. Operations are as in the policies, and as torchvision's AugMix has them with
    all_ops=False and nearest pixels.

    Args:
        severity: magnitudes are the lowest so many of ten, the first of which is none.
    """

    number, draws = 9, WIDTH + 1 + WIDTH + 3 * WIDTH * DEPTH

    def __init__(self, severity: int) -> None:
        self.severity = severity
        self.policy = Policy(augmix_largest, bins=LEVELS - 1, bits=4)

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """See :class:`Transform`."""
        require_colours(images)
        own, of_chains = mixing_weights(u[: WIDTH + 1])
        depth = 1 + below(u[WIDTH + 1 : 2 * WIDTH + 1].flatten(), DEPTH)
        chains = images.repeat(WIDTH, 1, 1, 1)
        for step, draw in enumerate(u[2 * WIDTH + 1 :].view(DEPTH, 3, -1)):
            kind = torch.where(step < depth, operation(below(draw[0], len(MOVES) + 4)), 0.0)
            sign = torch.where(draw[2] < 0.5, 1.0, -1.0)
            chains = self.policy.operated(chains, kind, below(draw[1], self.severity), sign)
        mix = each(own) * images
        for weight, chain in zip(of_chains, chains.chunk(WIDTH), strict=True):
            mix += each(weight) * chain
        return to_bytes(mix)


def mixing_weights(u: Tensor) -> tuple[Tensor, Tensor]:
    """The image's own weight (N,), and the chains' (3, N), from numbers (4, N): all of them add up to 1."""
    share = -torch.log1p(-exact(u[:WIDTH]))
    share = share / share.sum(0).clamp(min=1e-30) * exact(u[WIDTH])
    of_chains = ((share * PARTS).floor() / PARTS).float()
    return 1 - of_chains.sum(0), of_chains


def operation(drawn: Tensor) -> Tensor:
    """The numbers among all operations of the nine that there are."""
    return drawn + 1 + AFTER * (drawn >= len(MOVES))
