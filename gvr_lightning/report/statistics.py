"""Means over seeds, their spread, and differences paired by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Sample:
    """A mean over seeds. One seed has no spread: ``sd``, ``low`` and ``high`` are None."""

    n: int
    mean: float
    sd: float | None = None  # with n - 1
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Paired:
    """The mean of differences, seed by seed; from two pairs on with an interval, and p unless all are equal."""

    seeds: tuple[int, ...]
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def identical(self) -> bool:
        """Whether every seed has the very same figure in both."""
        return self.mean == 0 and self.low == self.high

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval is on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def sample(values: Sequence[float]) -> Sample:
    """Mean, standard deviation (n - 1) and Student's 95% interval of the mean.

    Raises:
        ValueError: for no values.
    """
    if not values:
        raise ValueError("a mean needs a value")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Sample(1, mean)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = quantile(n - 1) * sd / math.sqrt(n)
    return Sample(n, mean, sd, mean - half, mean + half)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Paired | None:
    """The difference over the seeds that both have, with the paired t test's two-sided p; None if there are none."""
    seeds = tuple(sorted(values.keys() & baseline.keys()))
    if not seeds:
        return None
    found = sample([values[seed] - baseline[seed] for seed in seeds])
    if not found.sd:  # one pair, or differences that are all equal: t has no meaning
        return Paired(seeds, found.mean, found.low, found.high)
    t = found.mean / (found.sd / math.sqrt(found.n))
    return Paired(seeds, found.mean, found.low, found.high, float(2 * stdtr(found.n - 1, -abs(t))))


def quantile(degrees: int) -> float:
    """Of Student's t, for a two-sided interval."""
    return float(stdtrit(degrees, (1 + LEVEL) / 2))
