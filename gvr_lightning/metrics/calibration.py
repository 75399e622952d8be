"""Temperature scaling (Guo et al. 2017): one number that makes probabilities fit how often they are right."""

import math

from torch import Tensor

LEAST, MOST = 0.01, 100.0  # temperatures that are looked at


def fit_temperature(logits: Tensor, targets: Tensor) -> float | None:
    """The temperature T with the least mean cross-entropy of ``logits / T``, in float64 on the CPU.

    The loss is convex in 1/T, so that its slope has one root at most.

    Args:
        logits: (N, C), of images that were not trained on.
        targets: (N,).

    Returns:
        None where there is no minimum within the range: where all images are predicted rightly, the less the better.
    """
    from scipy.optimize import brentq

    z, y = logits.detach().cpu().double(), targets.cpu()
    above = z - z.gather(1, y.unsqueeze(1))  # the label's

    def slope(log_inverse: float) -> float:
        weight = (above * math.exp(log_inverse)).softmax(1)
        return float((weight * above).sum(1).mean())

    low, high = -math.log(MOST), -math.log(LEAST)
    if not slope(low) < 0 < slope(high):
        return None
    return math.exp(-float(brentq(slope, low, high, xtol=1e-13)))
