"""Packing: every sequence once, capacity kept, equal numbers of rows, the same updates at every world size."""

from hypothesis import given, settings
from hypothesis import strategies as st

from train_cluster.packing import cut_groups, plan


def test_first_fit_decreasing_by_hand() -> None:
    # 10 | 6 3 | 5 2 2: longest first, each to the first row with room for it
    assert plan(range(6), [2, 6, 3, 10, 5, 2], world_size=1, capacity=10).rows == (((3,), (1, 2), (0, 4, 5)),)


def test_a_sequence_above_capacity_has_a_row_of_its_own() -> None:
    assert plan(range(3), [4, 25, 4], world_size=1, capacity=10).rows == (((1,), (0, 2)),)


def test_ranks_are_balanced_and_padded_with_empty_rows() -> None:
    # longest first to the lighter rank: 9 -> 0, 5 -> 1, 4 -> 1 (9 both), 1 -> 0
    assert plan(range(4), [9, 5, 4, 1], world_size=2, capacity=9).rows == (((0,), (3,)), ((1, 2), ()))


def test_groups_are_cut_whole_and_in_order() -> None:
    assert cut_groups([0, 0, 1, 2, 2, 3, 4], mini_batches=2) == [[0, 1, 2, 3, 4], [5, 6]]
    assert cut_groups([0, 0, 1], mini_batches=3) == [[0, 1], [2], []]


@given(
    lengths=st.lists(st.integers(1, 40), max_size=40),
    world_size=st.integers(1, 5),
    capacity=st.integers(1, 50),
)
@settings(max_examples=150, deadline=None)
def test_every_plan_holds_every_sequence_once_within_capacity(
    lengths: list[int], world_size: int, capacity: int
) -> None:
    planned = plan(range(len(lengths)), lengths, world_size=world_size, capacity=capacity)
    assert sorted(i for rank in planned.rows for row in rank for i in row) == list(range(len(lengths)))
    assert len({len(rows) for rows in planned.rows}) == 1
    for row in (row for rows in planned.rows for row in rows):
        assert len(row) <= 1 or sum(lengths[i] for i in row) <= capacity
    assert planned == plan(range(len(lengths)), lengths, world_size=world_size, capacity=capacity)


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12), mini_batches=st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_cuts_are_nearly_equal_and_complete(sizes: list[int], mini_batches: int) -> None:
    group_index = [group for group, size in enumerate(sizes) for _ in range(size)]
    cuts = cut_groups(group_index, mini_batches=mini_batches)
    assert [i for cut in cuts for i in cut] == list(range(len(group_index)))
    groups = [len({group_index[i] for i in cut}) for cut in cuts]
    assert max(groups) - min(groups) <= 1
