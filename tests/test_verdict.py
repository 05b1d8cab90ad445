"""The verdict on a claim: its rule against scipy's interval, its errors on simulated studies with planted effects."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sslcut.render.verdict import MOST_SEEDS, half_width, judge, level, seeds_needed

CLAIMS, SEEDS, SMALLEST = 4, 5, 1.0


def studies(effect, deviation, count=1000, seeds=SEEDS, claims=CLAIMS):
    """The words of simulated studies, (count, claims): every claim has this effect."""
    drawn = np.random.default_rng(0).normal(effect, deviation, (count, claims, seeds))
    return np.array([[judge(values, SMALLEST, claims).word for values in study] for study in drawn.tolist()])


def test_the_interval_is_scipys_at_the_level_that_the_claims_share():
    values = [3.1, 2.2, 4.0, 2.9, 3.6]
    verdict = judge(values, SMALLEST, 4)
    expected = stats.t.interval(1 - 0.05 / 4, 4, np.mean(values), stats.sem(values))
    assert (verdict.low, verdict.high) == pytest.approx(expected)
    assert (verdict.word, verdict.positive, level(1), level(5)) == ("appears", 5, 0.95, pytest.approx(0.99))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([5.0, 5.2, 4.9], "appears"),
        ([-5.0, -5.2, -4.9], "opposite"),
        ([0.1, -0.1, 0.05, 0.0], "does not appear"),
        ([0.9, 1.1, 1.0], "undecided"),
        ([9.0], "undecided"),
        ([], "not measured"),
    ],
)
def test_the_word_follows_from_where_the_interval_lies(values, word):
    assert judge(values, SMALLEST, 2).word == word


@pytest.mark.parametrize(
    ("value", "smallest", "word"),
    [(2.0, 1.0, "appears"), (-2.0, 1.0, "opposite"), (0.5, 1.0, "does not appear"), (1.0, 1.0, "does not appear"),
     (0.0, 0.0, "does not appear"), (1e-9, 0.0, "appears")],
)  # fmt: skip
def test_equal_differences_decide_by_their_value_alone(value, smallest, word):
    assert judge([value] * 3, smallest, 3).word == word


def test_a_planted_effect_appears_as_often_as_the_noncentral_t_says():
    effect, deviation = 4.0, 1.0
    share = (studies(effect, deviation) == "appears").mean()
    noncentral = (effect - SMALLEST) * math.sqrt(SEEDS) / deviation
    quantile = stats.t.ppf(1 - 0.05 / CLAIMS / 2, SEEDS - 1)
    assert share == pytest.approx(stats.nct.sf(quantile, SEEDS - 1, noncentral), abs=0.03)
    assert share > 0.8


@pytest.mark.parametrize("effect", [0.0, SMALLEST])
def test_no_more_than_one_study_in_twenty_has_a_claim_that_appears_without_an_effect_that_counts(effect):
    words = studies(effect, 2.0, count=2000)
    assert (words == "appears").any(axis=1).mean() <= 0.05


def test_a_planted_opposite_is_told_and_never_appears():
    words = studies(-4.0, 1.0)
    assert (words == "opposite").mean() > 0.8 and not (words == "appears").any()


def test_a_planted_effect_too_small_to_count_does_not_appear():
    words = studies(0.3, 0.2)
    assert (words == "does not appear").mean() > 0.8 and not (words == "appears").any()


@given(
    st.floats(-5, 5), st.floats(0.01, 3), st.floats(0, 2), st.integers(1, 8), st.integers(2, 12)
)  # fmt: skip
def test_the_seeds_that_would_decide_are_the_fewest_that_do(mean, deviation, smallest, claims, seeds):
    needed = seeds_needed(mean, deviation, smallest, claims)
    distance = abs(abs(mean) - smallest)
    if needed <= MOST_SEEDS:
        assert half_width(deviation, needed, claims) < distance
    if needed > 2:
        assert half_width(deviation, needed - 1, claims) >= distance


def test_an_undecided_claim_asks_for_more_seeds_than_it_has_and_a_hopeless_one_for_too_many():
    verdict = judge([2.0, 0.5, 4.0, 1.5, 3.0], SMALLEST, 4)
    assert verdict.word == "undecided" and verdict.needed > SEEDS
    assert judge([0.0, 2.0], SMALLEST, 4).needed == MOST_SEEDS + 1
    assert judge([3.0], SMALLEST, 4).needed is None
