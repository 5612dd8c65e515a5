"""The order of a mixture: shares over every prefix, every row once a pass, and the same on every machine."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.order import LONGEST_BLOCK, Interleave, permutation, whole_weights

FROZEN = [1, 0, 0, 2, 1, 0, 0, 2, 0, 1, 1, 0, 0, 2, 0, 1, 1, 0, 2, 0]
FROZEN_SOURCE = [3, 1, 4, 2, 0, 5]

weights = st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.4, 1.0, 2.0, 3.0, 7.0]), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(weights, st.integers(0, 2**64 - 1), st.integers(0, 10**6))
def test_every_prefix_has_each_source_s_share_within_one(given_weights, seed, block):
    mix = Interleave(given_weights, seed=seed)
    length = sum(mix.weights)
    counts = np.zeros(len(mix.weights), np.int64)
    shares = [Fraction(weight, length) for weight in mix.weights]
    for n in range(min(3 * length, 400)):
        source, before = mix.at(n)
        assert before == counts[source]
        counts[source] += 1
        assert all(abs(int(count) - share * (n + 1)) < 1 for count, share in zip(counts, shares, strict=True))
        assert mix.drawn(n + 1) == tuple(counts)
    # Far on, in any block: the same from the start of the block, at which counts are exact.
    assert mix.drawn(block * length) == tuple(block * weight for weight in mix.weights)


@pytest.mark.parametrize(
    ("given_weights", "whole"),
    [
        ([5.0], (1,)),
        ([0.4, 0.3, 0.2, 0.1], (4, 3, 2, 1)),  # no trace of 0.1 + 0.2 = 0.30000000000000004
        ([1.0, 1.0], (1, 1)),
        ([0.333, 0.667], (333, 667)),
        ([1e-3, 1.0], (1, 1000)),
        ([6.0, 4.0], (3, 2)),
    ],
)
def test_weights_become_the_smallest_whole_numbers(given_weights, whole):
    assert whole_weights(given_weights) == whole


def test_the_interleave_is_frozen():
    # Raw Philox4x64-10 output and whole numbers only: a change would break every resume of a mixture.
    mix = Interleave([0.5, 0.3, 0.2], seed=3)
    assert [mix.at(place)[0] for place in range(20)] == FROZEN
    assert permutation(3, 0, 6, source=1).tolist() == FROZEN_SOURCE
    assert permutation(3, 0, 6).tolist() != FROZEN_SOURCE


def test_the_seed_shuffles_and_blocks_differ():
    orders = {tuple(Interleave([0.5, 0.3, 0.2], seed=seed).at(n)[0] for n in range(40)) for seed in range(8)}
    assert len(orders) == 8
    one = Interleave([5, 3, 2], seed=0)
    assert len({tuple(one.at(10 * block + n)[0] for n in range(10)) for block in range(8)}) > 1


def test_a_place_is_found_without_those_before_it():
    one, other = Interleave([0.7, 0.3], seed=1), Interleave([0.7, 0.3], seed=1)
    there = [one.at(place) for place in range(500)]
    assert [other.at(place) for place in reversed(range(500))][::-1] == there


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 30)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_places_within_limits_draw_no_more_and_the_next_would(pairs):
    mix, limits = Interleave([float(weight) for weight, _ in pairs], seed=5), [limit for _, limit in pairs]
    places = mix.places_within(limits)
    assert all(drawn <= limit for drawn, limit in zip(mix.drawn(places), limits, strict=True))
    assert any(drawn > limit for drawn, limit in zip(mix.drawn(places + 1), limits, strict=True))


def test_the_longest_block_is_laid_out_whole():
    mix = Interleave([0.4999, 0.3001, 0.2], seed=0)
    assert sum(mix.weights) == LONGEST_BLOCK
    assert mix.drawn(LONGEST_BLOCK) == (4999, 3001, 2000)
