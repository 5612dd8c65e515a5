"""The rate and the time left that a person sees beside each step."""

import subprocess
import sys

import pytest

from orchestrator.console import Console, Pace


def test_time_left_follows_the_last_steps():
    pace = Pace()
    assert pace.left(1, 100, now=10.0) == ""
    assert pace.left(2, 100, now=12.0) == "2 s/step, 3:16 left"  # 98 steps of 2 s
    assert pace.left(3, 5000, now=20.0) == "5 s/step, 6:56:25 left"  # 4,997 steps of (20 - 10) / 2 s
    for step in range(4, 30):
        shown = pace.left(step, 100, now=20.0 + step)
    assert shown == "1 s/step, 1:11 left"  # the slow ones are forgotten
    assert pace.left(100, 100, now=200.0) == ""


def test_steps_that_are_trained_again_start_a_new_count():
    pace = Pace()
    pace.left(5, 10, now=0.0)
    pace.left(6, 10, now=1.0)
    assert pace.left(5, 10, now=60.0) == ""
    assert pace.left(6, 10, now=61.0) == "1 s/step, 0:04 left"


@pytest.mark.parametrize("quiet", [False, True])
def test_lines_carry_it_where_there_is_no_terminal(capsys, quiet):
    with Console(quiet=quiet) as console:
        console.stepped({"step": 1.0, "reward_mean": 0.5}, steps=3)
        console.stepped({"step": 2.0, "reward_mean": 0.5}, steps=3)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == (0 if quiet else 2)
    if not quiet:
        assert shown[0] == "step 1/3  reward 0.5"
        assert shown[1].startswith("step 2/3  reward 0.5  ")
        assert shown[1].endswith(" s/step, 0:00 left")


_SPEAKER = """
import sys
from orchestrator.console import Console
with Console() as console:
    console.say("first")
    sys.stdin.readline()
    for number in range(3):
        console.say(f"line {number}")
        print(f"warning {number}", file=sys.stderr, flush=True)
print("the end")
"""


def test_a_run_goes_on_when_nobody_reads_its_console():
    speaker = subprocess.Popen(
        [sys.executable, "-c", _SPEAKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert speaker.stderr.readline() == "first\n"
    speaker.stderr.close()
    speaker.stdin.write("\n")
    speaker.stdin.close()
    assert speaker.stdout.read() == "the end\n"
    speaker.stdout.close()
    assert speaker.wait() == 0
