"""Kill the loop at named points, through the real command, and demand the same weights as an undisturbed replay."""

from pathlib import Path

import pytest
from conftest import STEPS
from loop_commands import as_json, headrace, succeeded

pytestmark = pytest.mark.faults

SIGKILLED = -9


def assert_whole(run: Path, *, workplace: Path) -> None:
    """Completed, every issued prompt settled once, and bit-identical to the replay of its ledger from step 0."""
    status = as_json("status", run, cwd=workplace)
    assert (status["state"], status["step"], status["published"]) == ("completed", STEPS, STEPS)
    balance = as_json("audit", run, cwd=workplace)
    assert balance["balanced"]
    assert balance["outcomes"]["trained"] == STEPS * 4
    assert balance["unsettled"] == 0
    again = as_json("run", "--replay", run, cwd=workplace)
    assert (again["from_step"], again["to_step"]) == (0, STEPS)
    assert again["identical"]
    assert again["digest"] == again["expected"]


def test_a_rank_killed_inside_a_step(workplace: Path) -> None:
    run = workplace / "runs" / "rank"
    keep_all = "training.checkpoint.keep=10"
    succeeded("run", "small.yaml", "run.name=rank", keep_all, faults="rank.step@4:self", cwd=workplace)
    assert (run / "faults" / "rank.step@4").exists()
    assert as_json("status", run, cwd=workplace)["restarts"]["trainer"] == 1
    assert_whole(run, workplace=workplace)


def test_the_driver_killed_before_and_after_a_commit(workplace: Path) -> None:
    run = workplace / "runs" / "driver"
    overrides = ["run.name=driver", "training.checkpoint.keep=10"]
    first = headrace("run", "small.yaml", *overrides, faults="batch.commit.before@3:driver", cwd=workplace)
    assert first.returncode == SIGKILLED
    assert (run / "faults" / "batch.commit.before@3").exists()
    assert as_json("status", run, cwd=workplace)["state"] == "dead"

    second = headrace("resume", run, faults="batch.commit.after@5:driver", cwd=workplace)
    assert second.returncode == SIGKILLED, second.stderr
    assert (run / "faults" / "batch.commit.after@5").exists()

    succeeded("resume", run, cwd=workplace)
    assert_whole(run, workplace=workplace)
