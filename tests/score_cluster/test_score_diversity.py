"""How much answers differ: hand-worked, and against a count in plain Python. Half a second beside the imports."""

import numpy as np
import pytest
from prometheus_client import REGISTRY

from score_cluster import metrics
from score_cluster.diversity import LONGEST, distinct_ngrams, diversity


def tokens(*numbers):
    return np.array(numbers, dtype=np.int32)


def test_distinct_ngrams_by_hand():
    # 1-grams: 5 6 5 6 | 5 6 7 -> {5 6 7} of 7; 2-grams: 56 65 56 | 56 67 -> {56 65 67} of 5;
    # 3-grams: 565 656 | 567 -> 3 of 3; 4-grams: 5656 | none -> 1 of 1
    assert distinct_ngrams([tokens(5, 6, 5, 6), tokens(5, 6, 7)]) == (3 / 7, 3 / 5, 1.0, 1.0)
    assert distinct_ngrams([tokens(1, 1, 1, 1, 1)]) == (1 / 5, 1 / 4, 1 / 3, 1 / 2)
    # none reaches from one response into the next: 12 | 12 has one 2-gram twice, and no 21
    assert distinct_ngrams([tokens(1, 2), tokens(1, 2)]) == (2 / 4, 1 / 2, 1.0, 1.0)
    assert distinct_ngrams([tokens(), tokens()]) == (1.0,) * LONGEST


def counted(responses):
    shares = []
    for n in range(1, LONGEST + 1):
        grams = [tuple(one[i : i + n]) for one in responses for i in range(len(one) - n + 1)]
        shares.append(len(set(grams)) / len(grams) if grams else 1.0)
    return tuple(shares)


def test_distinct_ngrams_are_those_of_a_plain_count_for_any_token_numbers():
    random = np.random.default_rng(0)
    for vocabulary in (2, 5, 2**31 - 1):
        for _ in range(60):
            lengths = random.integers(0, 12, random.integers(1, 6))
            responses = [random.integers(0, vocabulary, length).astype(np.int32) for length in lengths]
            assert distinct_ngrams(responses) == counted(responses)


def test_a_group_by_hand():
    found = diversity([tokens(1, 2), tokens(1, 2), tokens(3), tokens()], [1.0, 1.0, 0.0, 2.0])
    assert found.among is not None
    assert found.among.unique == 3 / 4
    assert found.among.spread == pytest.approx(np.sqrt(0.5))  # mean 1, deviations 0 0 -1 1
    assert found.among.equal == 0.0
    assert diversity([tokens(1), tokens(1)], [2.0, 2.0]).measures() == {
        "diversity.unique": 0.5,
        "diversity.distinct_4": 1.0,
        "diversity.spread": 0.0,
        "diversity.equal": 1.0,
    }
    assert diversity([tokens(1)], [2.0]).measures() == {"diversity.distinct_4": 1.0}  # one response differs from none


def test_means_over_a_pass_are_exported():
    alike = diversity([tokens(1, 2, 3, 4), tokens(1, 2, 3, 4)], [1.0, 1.0])  # n-grams: half of each
    apart = diversity([tokens(1, 2, 3, 4), tokens(5, 6, 7, 8)], [0.0, 2.0])
    metrics.observe_diversity([alike, apart])
    seen = REGISTRY.get_sample_value
    assert seen("headrace_score_unique_ratio") == 0.75
    assert [seen("headrace_score_distinct_ratio", {"n": str(n)}) for n in (1, 2, 3, 4)] == [0.75] * 4
    assert seen("headrace_score_reward_spread") == 0.5
    assert seen("headrace_score_equal_groups_ratio") == 0.5
    metrics.observe_diversity([])  # a pass in which everything failed leaves them
    assert seen("headrace_score_unique_ratio") == 0.75
