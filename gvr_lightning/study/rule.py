"""The registered rule: a candidate wins only if it beats every comparator, Holm over the candidates.

All are pure functions of figures by seed. Tests are paired and two-sided; a win is in the better direction.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import nctdtr, stdtrit

from gvr_lightning.report.metrics import Metric
from gvr_lightning.report.statistics import Paired, paired, quantile
from gvr_lightning.study.plan import Comparison

EXACT = 1e-9  # differences that are equal but for their last digits have no spread
MOST = 100_000  # pairs

Figures = Mapping[int, float]  # by seed


@dataclass(frozen=True)
class Verdict:
    """On a candidate, at a look."""

    pairs: Mapping[str, Paired | None]  # by comparator; None: no seed in common
    p: float  # the largest over the comparators
    level: float  # what Holm asks of it
    wins: bool


def judge(
    values: Mapping[str, Figures],
    seeds: Sequence[int],
    comparison: Comparison,
    alpha: float,
    won: frozenset[str] = frozenset(),
) -> dict[str, Verdict]:
    """A verdict on each candidate; one without a figure for every seed does not win.

    Args:
        values: of each arm, by seed.
        seeds: of this look. A comparator that has no figure for one of them is compared over the others.
        comparison: what was registered.
        alpha: of this look.
        won: candidates that have won at an earlier look, and stay winners.
    """
    direction = Metric(comparison.metric).direction
    pairs = {c: {k: paired(values[c], values[k]) for k in comparison.comparators} for c in comparison.candidates}
    whole = {c: set(seeds) <= values[c].keys() for c in pairs}
    union = {c: max(p_better(pair, direction) for pair in pairs[c].values()) if whole[c] else 1.0 for c in pairs}
    levels, winners = holm({c: 0.0 if c in won else p for c, p in union.items()}, alpha)
    return {c: Verdict(pairs[c], union[c], levels[c], c in winners) for c in pairs}


def p_better(pair: Paired | None, direction: int) -> float:
    """The paired t test's two-sided p where the difference is in the better direction, else 1."""
    if pair is None or pair.p is None or spread(pair) is None or pair.mean * direction <= 0:
        return 1.0
    return pair.p


def spread(pair: Paired) -> float | None:
    """The standard deviation of the differences; None where they are one, or equal but for their last digits."""
    n = len(pair.seeds)
    sd = 0.0 if pair.low is None else (pair.mean - pair.low) * math.sqrt(n) / quantile(n - 1)
    return sd if sd > EXACT * abs(pair.mean) else None


def holm(p: Mapping[str, float], alpha: float) -> tuple[dict[str, float], set[str]]:
    """Holm's step-down: the level that each is held to, and those whose p is below it and below nothing higher."""
    levels, winners, going = {}, set(), True
    for i, name in enumerate(sorted(p, key=lambda name: p[name])):
        levels[name] = alpha / (len(p) - i)
        going = going and p[name] < levels[name]
        if going:
            winners.add(name)
    return levels, winners


def power(pairs: int, effect: float, alpha: float) -> float:
    """The chance that a two-sided paired t test finds a difference of ``effect`` standard deviations, as it is."""
    degrees, shift = pairs - 1, effect * math.sqrt(pairs)
    return float(1 - nctdtr(degrees, shift, stdtrit(degrees, 1 - alpha / 2)))


def of_each(wanted: float, comparators: int) -> float:
    """The power against each comparator by which all are beaten with the one that is wanted, or more."""
    return 1 - (1 - wanted) / comparators


def pairs_needed(effect: float, alpha: float, wanted: float) -> int | None:
    """As few pairs as have that power; None if that is more than anybody runs."""
    low, high = 1, 2
    while high <= MOST and not power(high, effect, alpha) >= wanted:
        low, high = high, 2 * high
    if high > MOST:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, effect, alpha) >= wanted else (middle, high)
    return high


def detectable(pairs: int, alpha: float, wanted: float) -> float:
    """The difference, in standard deviations of the pairs, that so many of them find with that power."""
    low, high = 0.0, 1.0
    while power(pairs, high, alpha) < wanted:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(pairs, middle, alpha) >= wanted else (middle, high)
    return high
