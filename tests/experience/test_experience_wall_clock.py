"""Phases add up to wall time, at every moment and for every reader. A second."""

import threading
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from experience.late_gauge import LateGauge
from experience.wall_clock import WallClock, WallSeconds


class Hands:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_phases_add_up_and_the_running_one_counts_up_to_now() -> None:
    now = Hands()
    clock = WallClock(("start", "work", "wait"), began=98.0, clock=now)
    now.now = 103.0
    assert clock.seconds() == {"start": 5.0, "work": 0.0, "wait": 0.0}  # 103 - 98: from before it was made
    assert clock.enter("work") == "start"
    now.now = 104.5
    with clock.during("wait"):
        now.now = 106.5
        assert clock.phase == "wait"
        assert clock.seconds() == {"start": 5.0, "work": 1.5, "wait": 2.0}
    now.now = 107.0
    assert clock.phase == "work"
    assert clock.seconds() == {"start": 5.0, "work": 2.0, "wait": 2.0}  # 9 s since 98
    assert clock.enter("work") == "work"  # goes on
    assert sum(clock.seconds().values()) == now.now - clock.began


def test_a_phase_ends_with_an_error_too() -> None:
    clock = WallClock(("other", "work"))
    with pytest.raises(OSError), clock.during("work"):  # noqa: PT011
        raise OSError
    assert clock.phase == "other"
    with pytest.raises(AssertionError):
        clock.enter("sleep")


def test_no_reader_sees_time_that_goes_back_or_counts_twice() -> None:
    """One thread switches as fast as it can, another reads: each phase only grows, and the sum is the wall time."""
    clock, over = WallClock(("a", "b")), threading.Event()

    def switch() -> None:
        while not over.is_set():
            with clock.during("b"):
                pass

    thread = threading.Thread(target=switch)
    thread.start()
    before = clock.seconds()
    try:
        for _ in range(2000):
            earliest = time.monotonic() - clock.began
            found = clock.seconds()
            latest = time.monotonic() - clock.began
            assert earliest - 1e-6 <= sum(found.values()) <= latest + 1e-6
            assert all(found[phase] >= before[phase] for phase in found)
            before = found
    finally:
        over.set()
        thread.join()


def test_each_scrape_is_of_its_own_moment_and_of_the_newest_clock() -> None:
    registry, now = CollectorRegistry(), Hands()
    shown = WallSeconds("headrace_x_wall_seconds_total", "x", ["phase"], registry=registry)
    assert b"headrace_x_wall_seconds_total{" not in generate_latest(registry)
    clock = shown.shows(WallClock(("start", "work"), clock=now))
    clock.enter("work")
    for later in (0.0, 2.5):
        now.now = 100.0 + later
        assert registry.get_sample_value("headrace_x_wall_seconds_total", {"phase": "work"}) == later
    shown.shows(WallClock(("start", "work"), clock=now))
    assert registry.get_sample_value("headrace_x_wall_seconds_total", {"phase": "work"}) == 0.0
    assert b"# TYPE headrace_x_wall_seconds_total counter" in generate_latest(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        WallSeconds("headrace_x_wall_seconds_total", "x", ["phase"], registry=registry)


def test_a_late_gauge_is_absent_until_it_is_set() -> None:
    registry = CollectorRegistry()
    gauge = LateGauge("headrace_x_ratio", "x", registry=registry)
    assert b"headrace_x_ratio" not in generate_latest(registry)
    gauge.set(0)
    assert registry.get_sample_value("headrace_x_ratio") == 0.0
