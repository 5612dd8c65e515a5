"""The arithmetic of a comparison, by hand."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as some

from orchestrator.evaluation import statistics as st

SCORES = some.lists(some.integers(-3, 3).map(float), min_size=1, max_size=4)


def test_win_rate_counts_all_pairs_and_ties_half() -> None:
    # first 0, 2; second 1, 2: 1 > 0 wins, 1 < 2 loses, 2 > 0 wins, 2 = 2 is half: 2.5 of 4.
    assert st.win_share([0, 2], [1, 2]) == 0.625
    assert st.tie_share([0, 2], [1, 2]) == 0.25
    assert st.win_share([0], [0.05], margin=0.1) == 0.5
    assert st.tie_share([0], [0.05], margin=0.1) == 1.0


@given(first=SCORES, second=SCORES)
def test_what_one_side_wins_the_other_loses(first: list[float], second: list[float]) -> None:
    assert st.win_share(first, second) + st.win_share(second, first) == pytest.approx(1)
    assert st.win_share(first, first) == 0.5


def test_sign_test_by_hand() -> None:
    # 1 of 5: 2 (C(5,0) + C(5,1)) / 32 = 12 / 32.
    assert st.sign_test(4, 1) == st.sign_test(1, 4) == 0.375
    assert st.sign_test(8, 0) == 2 / 256
    assert st.sign_test(3, 3) == 1.0
    assert st.sign_test(0, 0) == 1.0
    assert 0 < st.sign_test(400, 112) < 1e-30


def test_pass_at_k_by_hand() -> None:
    # 4 samples, 1 right: of C(4,2) = 6 pairs 3 hold it. 4 samples, 2 right: one pair of 6 lacks both.
    assert st.pass_at_k(4, 1, 2) == 0.5
    assert st.pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert [st.pass_at_k(4, right, 1) for right in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert st.pass_at_k(4, 1, 4) == 1.0
    assert st.pass_at_k(256, 0, 64) == 0.0


def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples() -> None:
    """Without bias: over all outcomes of three samples that are right with probability 0.3, it is 1 - 0.7^2 for k = 2."""
    expected = 0.0
    for outcome in product((0, 1), repeat=3):
        chance = math.prod(0.3 if right else 0.7 for right in outcome)
        expected += chance * st.pass_at_k(3, sum(outcome), 2)
    assert expected == pytest.approx(1 - 0.7**2)


def test_more_samples_are_wanted_than_there_are() -> None:
    with pytest.raises(ValueError, match="pass@8 cannot be estimated from 4 samples"):
        st.pass_at_k(4, 1, 8)


def test_bootstrap_interval_is_that_of_the_normal_distribution_for_many_prompts() -> None:
    values = [float(i % 2) for i in range(400)]  # sd 0.5: +- 1.96 x 0.5 / 20 = 0.049
    low, high = st.bootstrap_interval(values, resamples=4000, seed=1)
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.004)
    assert st.bootstrap_interval(values, resamples=4000, seed=1) == (low, high)
    assert st.bootstrap_interval([1.0, 1.0], resamples=100, seed=0) == (1.0, 1.0)


def test_wilson_interval_by_hand() -> None:
    # 8 of 10, z2 = 3.8415: centre (8 + 1.9207) / 13.8415 = 0.71674, half 1.95996 sqrt(1.6 + 0.96036) / 13.8415 = 0.22658
    assert st.wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    assert st.wilson_interval(0, 10)[0] == 0.0
    assert st.wilson_interval(10, 10)[1] == pytest.approx(1.0)


def test_distinct_ngrams_by_hand() -> None:
    # Pairs: "a b", "b a", "a b" and "a b": 2 different ones of 4.
    assert st.distinct_ngrams(["a b a b", "A b"], n=2) == 0.5
    assert st.distinct_ngrams(["a"], n=2) == 0.0


def test_unique_share_and_quantiles() -> None:
    assert st.unique_share(["a", "b", "a", "c"]) == 0.75
    assert st.quantiles([4, 1, 3, 2], (0.5, 0.95)) == (2, 4)
    assert st.grouped(["b", "a", "b"]) == {"a": [1], "b": [0, 2]}
