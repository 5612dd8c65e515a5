"""Whom the loop waits for, by hand-made pictures of it. Half a second beside the imports."""

from typing import Any

import pytest

from experience.buffer import Snapshot
from orchestrator.waited_for import STAGES, Stage, bottleneck, waited_for

B = 4
"""Groups of a batch."""
BUSY = {"state": "running", "served": "0/1/3", "running": 8, "waiting": 0}
FOR_A_VERSION = {"state": "running", "served": "0/1/3", "running": 0, "waiting": 4}
NO_WEIGHTS = {"state": "running", "served": "", "running": 0, "waiting": 0}
IDLE = {"state": "running", "served": "0/1/3", "running": 0, "waiting": 0}
LOADING = {"state": "starting"}
SCORER = {"state": "running", "groups": 7}


def stage(*, streams: tuple[int, int, int], **changes: Any) -> Stage:
    """Depths of prompts, completions, experience; a trainer that waits, beside an engine and a scorer at work."""
    prompts, completions, experience = streams
    depths = {"prompts": prompts, "completions": completions, "experience": experience, "quarantine": 0}
    snapshot = Snapshot(live=sum(streams), committed=3, next_sequence=40, cursor=40, depths=depths)
    workers = {"gen-0": BUSY, "score-0": SCORER}
    picture = {"started": True, "at_work": False, "over": False, "batch_groups": B, "workers": workers}
    return waited_for(snapshot, **(picture | changes))


def test_a_trainer_at_work_is_who_all_wait_for_whatever_the_streams_hold() -> None:
    assert stage(streams=(0, 0, 12), at_work=True) == "training"
    assert stage(streams=(8, 0, 4), at_work=True) == "training"
    assert stage(streams=(2, 9, 0), at_work=True) == "training"


def test_a_slow_engine_holds_the_groups() -> None:
    assert stage(streams=(12, 0, 0)) == "generation"
    assert stage(streams=(8, 2, 2)) == "generation"  # the scorer has a few in hand
    assert stage(streams=(1, 0, 11)) == "generation"  # one long answer holds up the batch, with others behind it ready


def test_completions_pile_up_before_a_slow_scorer_while_generation_goes_on() -> None:
    assert stage(streams=(3, 8, 1)) == "scoring"
    assert stage(streams=(0, 1, 11)) == "scoring"


def test_engines_wait_for_a_version() -> None:
    assert stage(streams=(4, 0, 0), workers={"gen-0": FOR_A_VERSION, "score-0": SCORER}) == "publication"
    assert stage(streams=(4, 0, 0), workers={"gen-0": NO_WEIGHTS, "score-0": SCORER}) == "publication"
    # one of two runs something, so generation goes on
    assert stage(streams=(4, 0, 0), workers={"gen-0": FOR_A_VERSION, "gen-1": BUSY}) == "generation"
    # idle, and not for want of a version: it has not looked yet
    assert stage(streams=(4, 0, 0), workers={"gen-0": IDLE}) == "generation"


def test_one_step_at_a_time_without_staleness() -> None:
    """η = 0: a step's version is published, then its prompts are issued, answered, scored, trained; nothing overlaps."""
    assert stage(streams=(0, 0, 0)) == "publication"  # the version is being written: admission waits
    assert stage(streams=(B, 0, 0), workers={"gen-0": FOR_A_VERSION}) == "publication"  # and then fetched
    assert stage(streams=(B, 0, 0)) == "generation"
    assert stage(streams=(2, 1, 1)) == "generation"
    assert stage(streams=(1, 2, 1)) == "scoring"
    assert stage(streams=(0, 0, B)) == "training"  # rank 0 commits
    assert stage(streams=(0, 0, 0), at_work=True) == "training"


def test_admission_waits_for_a_version_while_less_than_a_batch_is_there() -> None:
    assert stage(streams=(0, 0, B - 1)) == "publication"


def test_who_is_still_starting() -> None:
    assert stage(streams=(B, 0, 0), started=False) == "start"
    assert stage(streams=(B, 0, 0), workers={"gen-0": LOADING, "score-0": SCORER}) == "start"
    assert stage(streams=(0, B, 0), workers={"gen-0": BUSY, "score-0": LOADING}) == "start"
    assert stage(streams=(0, B, 0), workers={}) == "start"
    assert stage(streams=(B, 0, 0), workers={"gen-0": LOADING, "gen-1": BUSY}) == "generation"
    assert stage(streams=(0, 0, B), started=False, at_work=True) == "start"  # ranks that start anew are not at work


def test_the_end() -> None:
    assert stage(streams=(0, 0, 0), over=True) == "end"
    assert stage(streams=(0, 0, 0), over=True, at_work=True) == "training"  # the step in hand, the last copies
    assert stage(streams=(8, 0, 0), over=True, started=False) == "end"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"training": 90.0, "scoring": 10.0}, "training"),  # 90 % is enough
        ({"training": 89.0, "scoring": 11.0}, "scoring"),
        ({"training": 60.0, "generation": 25.0, "scoring": 15.0}, "generation"),
        ({"training": 10.0, "publication": 30.0, "generation": 20.0}, "publication"),
        ({"start": 500.0, "end": 500.0, "training": 9.5, "generation": 0.5}, "training"),  # the loop's own time
        ({"start": 40.0}, None),
        ({}, None),
    ],
)
def test_the_bottleneck_of_a_window(seconds: dict[str, float], expected: Stage | None) -> None:
    assert bottleneck(seconds) == expected
    assert bottleneck(dict.fromkeys(STAGES, 0.0) | seconds) == expected
