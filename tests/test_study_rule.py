"""gvr-study's registered rule: against scipy, and in thousands of made-up studies."""

import math

import numpy as np
import pytest
import scipy.stats

from gvr_lightning.report.statistics import paired
from gvr_lightning.study.plan import Comparison
from gvr_lightning.study.rule import detectable, holm, judge, of_each, p_better, pairs_needed, power, spread

LOOKS = ((6, 0.005), (12, 0.048))
STUDIES = 2000


def comparison(candidates: str, comparators: str, metric: str = "test/acc") -> Comparison:
    return Comparison(metric, tuple(candidates), tuple(comparators), None, 0.8)


def figures(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_a_pair_is_scipy_s_paired_t_test_in_the_better_direction() -> None:
    one, other = [0.91, 0.93, 0.90, 0.95, 0.92], [0.90, 0.90, 0.89, 0.93, 0.92]
    pair = paired(figures(one), figures(other))
    expected = scipy.stats.ttest_rel(one, other).pvalue
    assert pair is not None and p_better(pair, 1) == pytest.approx(expected, rel=1e-10)
    assert p_better(pair, -1) == 1.0, "worse"
    differences = np.subtract(one, other)
    assert spread(pair) == pytest.approx(differences.std(ddof=1), rel=1e-10)


def test_a_candidate_has_to_beat_every_comparator() -> None:
    values = {"c": figures([5.0, 6, 7, 9]), "k": figures([1.0, 2.5, 3, 4]), "j": figures([4.5, 6.5, 6, 8.5])}
    found = judge(values, range(4), comparison("c", "kj"), 0.05)["c"]
    one, other = (scipy.stats.ttest_rel([5, 6, 7, 9], list(values[name].values())).pvalue for name in "kj")
    assert one < 0.01 < 0.05 < other
    assert found.p == pytest.approx(other, rel=1e-10) and not found.wins
    assert judge(values, range(4), comparison("c", "k"), 0.05)["c"].wins
    lower = judge(values, range(4), comparison("k", "c", "test/loss"), 0.05)["k"]
    assert lower.wins, "of a loss the lower one is better"


def test_holm_by_hand() -> None:
    levels, winners = holm({"a": 0.03, "b": 0.001, "c": 0.012}, 0.048)
    assert levels == {"b": pytest.approx(0.016), "c": pytest.approx(0.024), "a": pytest.approx(0.048)}
    assert winners == {"a", "b", "c"}
    assert holm({"a": 0.03, "b": 0.001, "c": 0.025}, 0.048)[1] == {"b"}, "what follows one that fails has failed"
    assert holm({"a": 0.048}, 0.048)[1] == set()


def test_who_has_won_at_a_look_stays_a_winner() -> None:
    values = {"a": figures([1.0, 2, 3]), "b": figures([1.1, 2.3, 3.2]), "k": figures([1.0, 2.1, 2.8])}
    found = judge(values, range(3), comparison("ab", "k"), 0.048, frozenset("a"))
    assert found["a"].wins and found["b"].level == 0.048, "the other one is held to the whole level"


@pytest.mark.parametrize(
    ("one", "why"),
    [
        ({0: 0.7, 1: 0.8, 2: 0.9}, "all differences are equal but for their last digits"),
        ({0: 0.7}, "one seed"),
        ({}, "no seed"),
        ({0: 0.9, 1: 0.81}, "a run of the candidate has failed"),
        ({0: 0.1, 1: 0.3, 2: 0.2}, "worse"),
    ],
)
def test_what_cannot_be_told_is_no_win(one: dict[int, float], why: str) -> None:
    base = {0: 0.6, 1: 0.7, 2: 0.8}
    found = judge({"c": one, "k": base}, range(3), comparison("c", "k"), 0.5)["c"]
    assert found.p == 1.0 and not found.wins, why


def test_a_comparator_s_failed_run_takes_its_pair_out() -> None:
    values = {"c": figures([3.0, 4, 6, 7]), "k": {0: 1.0, 1: 2.5, 3: 4.5}}
    found = judge(values, range(4), comparison("c", "k"), 0.05)["c"]
    assert found.p == pytest.approx(scipy.stats.ttest_rel([3, 4, 7], [1, 2.5, 4.5]).pvalue, rel=1e-10)


@pytest.mark.parametrize(("n", "effect", "alpha"), [(2, 1.0, 0.05), (12, 0.9, 0.048), (400, 0.1, 0.05)])
def test_power_is_that_of_the_noncentral_t(n: int, effect: float, alpha: float) -> None:
    critical = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
    expected = scipy.stats.nct.sf(critical, n - 1, effect * math.sqrt(n))
    assert power(n, effect, alpha) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("difference", "pairs"), [(0.3, 20), (0.4, 12), (0.5, 9)])
def test_pairs_needed_are_the_fewest(difference: float, pairs: int) -> None:
    effect = difference / 0.45
    assert pairs_needed(effect, 0.05, 0.8) == pairs
    assert power(pairs, effect, 0.05) >= 0.8 > power(pairs - 1, effect, 0.05)
    assert pairs_needed(1e-9, 0.05, 0.8) is None and pairs_needed(0.0, 0.05, 0.8) is None


@pytest.mark.parametrize(("n", "wanted"), [(2, 0.8), (5, 0.5), (12, 0.8), (200, 0.99)])
def test_the_detectable_difference_has_the_power(n: int, wanted: float) -> None:
    assert power(n, detectable(n, 0.048, wanted), 0.048) == pytest.approx(wanted, abs=1e-9)


def winners(values: np.ndarray, names: str, asked: Comparison) -> frozenset[str]:
    """Who wins a study of figures (seeds, arms), looked at as registered."""
    won: frozenset[str] = frozenset()
    for n, alpha in LOOKS:
        by_arm = {name: dict(enumerate(values[:n, i].tolist())) for i, name in enumerate(names)}
        found = judge(by_arm, range(n), asked, alpha, won)
        won = frozenset(name for name, verdict in found.items() if verdict.wins)
    return won


def studies(arms: int, shift: float, candidates: int) -> np.ndarray:
    """Made-up figures (study, seed, arm): a seed's own part, the arm's noise, the candidates' advantage.

    The standard deviation of a pair's difference is 1.
    """
    random = np.random.default_rng(20)
    values = random.normal(size=(STUDIES, LOOKS[-1][0], 1)) + random.normal(size=(STUDIES, LOOKS[-1][0], arms)) / 2**0.5
    values[..., :candidates] += shift
    return values


@pytest.mark.parametrize(("candidates", "comparators"), [("a", "k"), ("ab", "k"), ("a", "kj")])
def test_no_difference_is_found_in_at_most_one_of_twenty_studies(candidates: str, comparators: str) -> None:
    asked, names = comparison(candidates, comparators), candidates + comparators
    false = sum(bool(winners(study, names, asked)) for study in studies(len(names), 0.0, 0))
    assert false / STUDIES <= 0.05
    assert len(comparators) > 1 or false / STUDIES > 0.01, "nor is it so strict that nothing could be found"


@pytest.mark.parametrize("comparators", ["k", "kj"])
def test_a_difference_of_the_planned_size_is_found_as_often_as_planned(comparators: str) -> None:
    effect = detectable(LOOKS[-1][0], LOOKS[-1][1], of_each(0.8, len(comparators)))
    asked = comparison("c", comparators)
    values = studies(1 + len(comparators), effect, 1)
    found = sum(bool(winners(study, "c" + comparators, asked)) for study in values)
    assert found / STUDIES == pytest.approx(0.8, abs=0.05)
