"""Fault injection: what is asked for is struck once, in the right process, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import faults

REACH = """
import os, sys
from pathlib import Path
from orchestrator import faults
markers, driver_pid, *places = sys.argv[1:]
reached = faults.from_environment(os.environ, markers=Path(markers), driver_pid=int(driver_pid))
for place in places:
    point, step = place.split("@")
    reached(point, int(step))
    print(place, flush=True)
"""


def start(markers: Path, fault: str, *places: str, driver_pid: int = 0) -> subprocess.Popen[str]:
    """A worker that reaches these places one after the other and says so."""
    return subprocess.Popen(
        [sys.executable, "-c", REACH, str(markers), str(driver_pid), *places],
        env=os.environ | {faults.VARIABLE: fault},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_kills_itself_at_its_point_once(tmp_path):
    markers = tmp_path / "run" / "faults"
    places = ("rank.step@2", "batch.commit.before@3", "rank.step@3", "rank.step@4")
    first = start(markers, "rank.step@3:self", *places)
    assert first.communicate()[0].split() == ["rank.step@2", "batch.commit.before@3"]
    assert first.returncode == -signal.SIGKILL
    assert [path.name for path in markers.iterdir()] == ["rank.step@3"]
    second = start(markers, "rank.step@3:self", *places)
    assert second.communicate()[0].split() == list(places)
    assert second.returncode == 0


def test_a_worker_kills_the_driver_and_does_nothing_more(tmp_path):
    driver = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    worker = start(tmp_path, "a@1:self,b@2:driver", "a@2", "b@2", driver_pid=driver.pid)
    try:
        assert driver.wait(timeout=30) == -signal.SIGKILL
        assert worker.stdout.readline() == "a@2\n"
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(timeout=0.3)
        assert [path.name for path in tmp_path.iterdir()] == ["b@2"]
    finally:
        worker.kill()
        driver.kill()
        assert worker.communicate()[0] == ""
        driver.communicate()


def test_of_many_processes_one_strikes(tmp_path):
    marker = tmp_path / "faults" / "rank.step@3"
    assert [faults._mark(marker, again=False) for _ in range(3)] == [True, False, False]
    assert marker.read_text() == f"{os.getpid()}\n"
    assert faults._mark(marker.with_name("rank.step@4"), again=False)


def test_a_fault_that_strikes_always_counts_its_strikes(tmp_path):
    for _ in range(3):
        worker = start(tmp_path, "gen.start@5:self:always", "gen.start@4", "gen.start@5", "gen.start@6")
        assert worker.communicate()[0].split() == ["gen.start@4"]
        assert worker.returncode == -signal.SIGKILL
    assert len(set((tmp_path / "gen.start@5").read_text().split())) == 3


def test_a_paused_worker_goes_on_once_it_may_and_no_other_pauses(tmp_path):
    worker = start(tmp_path, "a@1:pause", "a@1", "a@2")
    marker = tmp_path / "a@1"
    wait_for(marker.exists)
    wait_for(marker.read_text)
    assert int(marker.read_text()) == worker.pid
    assert start(tmp_path, "a@1:pause", "a@1").communicate()[0] == "a@1\n"
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(timeout=0.3)
    (tmp_path / "a@1.go").touch()
    assert worker.communicate()[0].split() == ["a@1", "a@2"]


def test_without_a_fault_nothing_is_written(tmp_path):
    for environment in ({}, {faults.VARIABLE: ""}):
        faults.from_environment(environment, markers=tmp_path / "faults", driver_pid=1)("rank.step", 1)
    reached = faults.from_environment({faults.VARIABLE: "rank.step@2:self"}, markers=tmp_path / "faults", driver_pid=1)
    reached("rank.step", 1)
    reached("rank", 2)
    assert not (tmp_path / "faults").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rank.step@3:self", (("rank.step", 3), "self", False)),
        ("batch.commit.before@12:driver", (("batch.commit.before", 12), "driver", False)),
        ("gen.start@0:self:always", (("gen.start", 0), "self", True)),
        ("score.group@9:pause", (("score.group", 9), "pause", False)),
    ],
)
def test_a_fault_reads_as_point_step_and_action(text, expected):
    place, fault = faults._parse(text)
    assert (place, fault.action, fault.always) == expected


@pytest.mark.parametrize(
    "text", ["rank.step", "rank.step@3", "rank.step:self", "rank.step@x:self", "rank.step@3:me", "@3:self", ":self", " a@1:self", "a@1:self:twice"]
)  # fmt: skip
def test_a_fault_that_cannot_be_read_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="expected point@step:action, an action of self, driver, pause") as caught:
        faults.from_environment({faults.VARIABLE: f"a@1:self,{text}"}, markers=tmp_path, driver_pid=1)
    assert str(caught.value).startswith(f"HEADRACE_FAULTS = {text}: ")
