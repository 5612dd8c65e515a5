"""How components become totals, by numbers worked by hand, and the penalties on length."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from score_cluster.combination import lexicographic, shortfall, standardised, totals, weighted_sum
from score_cluster.lengths import length_penalty, overlong_penalty
from score_cluster.reward_config import ConstraintConfig, LexicographicConfig, NormalisedConfig, SumConfig

VALUES = st.floats(-10, 10).map(lambda value: round(value, 3))


def test_the_sum_is_weighted() -> None:
    components = {"helpful": [1.0, -2.0], "safe": [0.5, 1.0]}
    # 1 * 1 + 2 * 0.5 = 2;  1 * -2 + 2 * 1 = 0
    assert weighted_sum(components, weights={"helpful": 1.0, "safe": 2.0}) == [2.0, 0.0]


def test_standardised_by_hand() -> None:
    # mean 2, deviations -1 0 1, variance 2/3
    assert standardised([1.0, 2.0, 3.0]) == pytest.approx([-1 / sqrt(2 / 3), 0.0, 1 / sqrt(2 / 3)])


@pytest.mark.parametrize("values", [[3.0], [0.7, 0.7, 0.7], [0.7, 0.7 + 1e-7], [1e6, 1e6 + 1]])
def test_one_value_and_values_without_spread_are_zero(values: list[float]) -> None:
    assert standardised(values) == [0.0] * len(values)


def test_a_normalised_sum_weighs_components_alike_whatever_their_scale() -> None:
    small, large = [0.0, 1.0], [0.0, 1000.0]
    config, weights = NormalisedConfig(kind="normalised"), {"a": 1.0, "b": 2.0}
    # each standardised to -1, 1: 1 * -1 + 2 * -1 = -3
    for components in ({"a": small, "b": large}, {"a": large, "b": small}):
        assert totals(components, weights=weights, combine=config) == pytest.approx([-3.0, 3.0])
    # a alone tells them apart
    assert totals({"a": small, "b": [5.0, 5.0]}, weights=weights, combine=config) == pytest.approx([-1.0, 1.0])


def test_lexicographic_by_hand() -> None:
    components = {"safe": [1.0, 0.9, 0.0], "helpful": [0.0, 5.0, 9.0]}
    # strictly by safe: the first beats two, the second one of two, the third none
    assert lexicographic(components, order=["safe", "helpful"], tolerance={}) == [1.0, 0.0, -1.0]
    # 1.0 and 0.9 are alike now, so that helpful decides between them; the third stays last
    assert lexicographic(components, order=["safe", "helpful"], tolerance={"safe": 0.2}) == [0.0, 1.0, -1.0]
    # what differs by the tolerance itself is alike
    assert lexicographic({"safe": [1.0, 0.5]}, order=["safe"], tolerance={"safe": 0.5}) == [0.0, 0.0]


def test_a_circle_within_tolerances_is_a_tie() -> None:
    # a ~ b and b ~ c by safe; helpful says a > b > c; but c beats a by safe
    components = {"safe": [0.0, 0.9, 1.8], "helpful": [3.0, 2.0, 1.0]}
    assert lexicographic(components, order=["safe", "helpful"], tolerance={"safe": 1.0}) == [0.0, 0.0, 0.0]


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8))
def test_without_tolerance_totals_stand_in_lexicographic_order(pairs: list[tuple[float, float]]) -> None:
    scores = lexicographic({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}, order=["a", "b"], tolerance={})
    for first, one in zip(pairs, scores, strict=True):
        for second, other in zip(pairs, scores, strict=True):
            assert (first > second) == (one > other)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=8), st.floats(0, 5))
def test_totals_add_up_to_zero_and_stay_in_range(pairs: list[tuple[float, float]], tolerance: float) -> None:
    components = {"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}
    scores = lexicographic(components, order=["a", "b"], tolerance={"a": tolerance})
    assert sum(scores) == pytest.approx(0.0, abs=1e-9)
    assert all(-1 <= score <= 1 for score in scores)


def test_weights_play_no_part_in_a_lexicographic_order() -> None:
    config = LexicographicConfig(kind="lexicographic", order=("a",))
    for weight in (0.0, 1.0, -3.0):
        assert totals({"a": [1.0, 2.0], "b": [9.0, 0.0]}, weights={"a": weight, "b": 1.0}, combine=config) == [-1, 1]


def test_a_constraint_takes_the_shortfall_off_whatever_the_combination() -> None:
    components = {"helpful": [1.0, 3.0], "safe": [0.8, 0.1]}
    assert shortfall(components["safe"], threshold=0.5) == [0.0, 0.4]
    constraint = ConstraintConfig(component="safe", threshold=0.5, multiplier=10.0)
    weights = {"helpful": 1.0, "safe": 0.0}
    # sums 1 and 3; the second lacks 0.4, at 10 each: 3 - 4
    assert totals(components, weights=weights, combine=SumConfig(), constraints=[constraint]) == pytest.approx([1, -1])
    config = LexicographicConfig(kind="lexicographic", order=("helpful",))
    assert totals(components, weights=weights, combine=config, constraints=[constraint]) == pytest.approx([-1, -3])


@pytest.mark.parametrize(("length", "value"), [(0, 0.0), (500, 0.0), (501, -0.001), (1500, -1.0)])
def test_length_penalty(length: int, value: float) -> None:
    assert length_penalty(length, limit=500, per_token=0.001) == pytest.approx(value)


@pytest.mark.parametrize(
    ("length", "value"),
    [(0, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (101, -1.0), (900, -1.0)],  # (80 - length) / 20
)
def test_overlong_penalty(length: int, value: float) -> None:
    assert overlong_penalty(length, maximum=100, buffer=20) == pytest.approx(value)
