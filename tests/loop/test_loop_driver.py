"""One run whose driver is killed and resumed at one point of the protocol after the other, through the real command.

A life costs a start, so the points here are those at which a whole new life differs: before any worker exists, between
two stores, and in full work with everything gone at once. With the ranks of the replay some 95 s on two idle cores, of
which the starts are nine tenths.
`test_loop_points.py` goes through all the others by the same functions on the same stores, without engines and ranks.
"""

import signal
from pathlib import Path

import pytest
from loop_commands import Life, as_json, headrace, kill_everything, living, succeeded

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

SIGKILLED = -signal.SIGKILL
STEPS = 10
SETTINGS = ["run.name=driver", f"run.steps={STEPS}", "training.checkpoint.keep=20"]


def test_the_driver_dies_at_each_point_in_turn_and_the_books_balance(workplace: Path) -> None:
    run = workplace / "runs" / "driver"
    the_driver_dies(run, "issue.after@0", "run", "small.yaml", *SETTINGS, cwd=workplace)
    the_driver_dies(run, "epoch.claimed@2", "resume", run, cwd=workplace)
    with living("resume", run, run=run, faults="batch.commit.after@3:pause", cwd=workplace) as life:
        everything_dies_at_once(life)
    assert as_json("status", run, cwd=workplace)["state"] == "dead"
    succeeded("resume", run, cwd=workplace)
    status = as_json("status", run, cwd=workplace)
    assert (status["state"], status["step"], status["published"]) == ("completed", STEPS, STEPS)
    balance = as_json("audit", run, cwd=workplace)
    assert balance["balanced"]
    assert balance["outcomes"] == {"trained": STEPS * 4}  # nothing lost or doubled
    again = as_json("run", "--replay", run, cwd=workplace)
    assert (again["from_step"], again["to_step"]) == (0, STEPS)
    assert again["digest"] == again["expected"]


def the_driver_dies(run: Path, point: str, *arguments: str | Path, cwd: Path) -> None:
    done = headrace(*arguments, faults=f"{point}:driver", cwd=cwd)
    assert done.returncode == SIGKILLED, done.stderr
    assert (run / "faults" / point).exists()
    status = as_json("status", run, cwd=cwd)
    assert status["state"] == "dead"
    assert status["cause"].startswith("its driver was killed; `headrace resume")


def everything_dies_at_once(life: Life) -> None:
    """The driver, Ray, all workers and the server, with a batch in the ledger that the server holds for untrained."""
    life.reached("batch.commit.after@3")
    kill_everything(life.process.pid, life.server_pid())
    assert life.ends()[0] == SIGKILLED
    assert life.server_pid() is None
