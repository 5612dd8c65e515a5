"""Fault injection: what is asked for is struck once, in the right process, and nothing else."""

import os
import signal
import subprocess
import sys
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
    assert [faults._mark(tmp_path, "rank.step@3") for _ in range(3)] == [True, False, False]
    assert faults._mark(tmp_path, "rank.step@4")


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
        ("rank.step@3:self", {("rank.step", 3): "self"}),
        ("batch.commit.before@12:driver", {("batch.commit.before", 12): "driver"}),
    ],
)
def test_a_fault_reads_as_point_step_and_target(text, expected):
    assert dict([faults._parse(text)]) == expected


@pytest.mark.parametrize(
    "text", ["rank.step", "rank.step@3", "rank.step:self", "rank.step@x:self", "rank.step@3:me", "@3:self", ":self", " a@1:self"]
)  # fmt: skip
def test_a_fault_that_cannot_be_read_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="expected point@step:self or point@step:driver") as caught:
        faults.from_environment({faults.VARIABLE: f"a@1:self,{text}"}, markers=tmp_path, driver_pid=1)
    assert str(caught.value).startswith(f"HEADRACE_FAULTS = {text}: ")
