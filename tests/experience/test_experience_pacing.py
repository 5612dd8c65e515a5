"""The pacing rule: hand-worked numbers, and an adversary that finds the flaw in two rules that look as good."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pacing_simulation import ArrivedUnlessExpiring, Loop, OneBatchTooMany, TrainedInPlaceOfPublished, fair_round, play

from experience.pacing import admissible, admissible_again, next_batch


@pytest.mark.parametrize(
    ("live", "committed", "published", "expected"),
    [
        (0, 0, 0, 8),  # (1 + 0 + 1 - 0) * 4 = 8
        (3, 0, 0, 5),  # 8 - 3
        (4, 1, 0, 0),  # (1 + 0 + 1 - 1) * 4 - 4 = 0
        (4, 1, 1, 4),  # (1 + 1 + 1 - 1) * 4 - 4 = 4
        (4, 9, 8, 0),  # (1 + 8 + 1 - 9) * 4 - 4 = 0
        (9, 1, 1, 0),  # never negative
    ],
)
def test_admissible_at_eta_1_and_4_groups_a_batch(live, committed, published, expected):
    count = admissible(
        live=live, committed=committed, published=published, batch_groups=4, max_staleness=1, capacity=100
    )
    assert count == expected


def test_owed_attempts_take_what_the_window_has_left():
    rule = {"committed": 1, "published": 1, "batch_groups": 4, "max_staleness": 1}  # (1 + 1 + 1 - 1) * 4 = 8
    assert [admissible_again(live=live, owed=2, **rule) for live in (5, 6, 7, 8, 9)] == [2, 2, 1, 0, 0]


def test_the_adversary_drops_groups_and_what_is_owed_is_paid():
    loops = [play(Loop, seed) for seed in range(100)]
    assert sum(loop.dropped for loop in loops) > 30
    for loop in loops:
        for _ in range(4 * (loop.eta + loop.ahead + loop.interval)):
            fair_round(loop)
    assert not any(loop.owed for loop in loops)


def test_capacity_cuts_the_window():
    assert admissible(live=2, committed=0, published=0, batch_groups=4, max_staleness=1, capacity=8) == 6
    assert admissible(live=2, committed=0, published=0, batch_groups=4, max_staleness=9, capacity=8) == 6


def test_next_batch_is_the_lowest_unsettled_sequences():
    assert next_batch([9, 2, 7, 4], batch_groups=3) == (2, 4, 7)
    assert next_batch([9, 2], batch_groups=3) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_no_token_is_staler_than_eta_and_the_loop_goes_on(seed):
    loop = play(Loop, seed)
    assert max(loop.staleness, default=0) <= loop.eta
    before = loop.committed
    for _ in range(4 * (loop.eta + loop.ahead + loop.interval)):
        fair_round(loop)
    assert loop.committed > before + loop.eta, "deadlock"
    assert max(loop.staleness) <= loop.eta


def test_the_bound_is_reached():
    assert any(play(Loop, seed).staleness.count(4) for seed in range(200))


@pytest.mark.parametrize("rule", [TrainedInPlaceOfPublished, ArrivedUnlessExpiring, OneBatchTooMany])
def test_refuted_rules_violate_the_bound(rule):
    worst = max(max(loop.staleness, default=0) - loop.eta for loop in (play(rule, seed) for seed in range(200)))
    assert worst > 0


def test_an_interval_above_eta_plus_1_starves():
    loop = Loop(eta=1, batch_groups=2, interval=3, engines=[0], ahead=3)
    for _ in range(50):
        fair_round(loop)
    assert loop.committed == 2  # the third batch waits for version 3, which is published after it


def test_the_module_needs_no_heavy_library():
    code = "import sys, experience.pacing; print(sorted({'numpy', 'redis', 'torch', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
