"""One set of processes for all stages, and what happens when one of them dies inside a stage; 20 s idle, one Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.alone, pytest.mark.xdist_group("ray")]

SCRIPT = Path(__file__).with_name("session_stages.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own: a Ray that was started here would be this process's for good."""
    folder = tmp_path_factory.mktemp("session")
    paths = os.pathsep.join([str(SCRIPT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    calls = (folder / "failed").read_text().splitlines()
    return dict(json.loads(done.stdout)) | {"calls_of_what_fails": len(calls), "folder": folder}


def pids(answers: list[dict[str, Any]]) -> list[int]:
    return [answer["pid"] for answer in answers]


def test_the_ranks_of_a_stage_become_those_of_the_next_and_of_the_run(found: dict[str, Any]) -> None:
    assert pids(found["sft"]) == pids(found["reward"]) == pids(found["run"])
    assert [answer["folder"] for answer in found["reward"]] == ["reward"] * 2
    assert [answer["folder"] for answer in found["run"]] == ["trial"] * 2
    assert len({answer["meets"] for name in ("sft", "reward", "run") for answer in found[name]}) == 1, "one group"


def test_each_stage_is_set_up_anew_and_logs_in_its_own_folder(found: dict[str, Any]) -> None:
    assert found["ready"] == [{"stage": ""}] * 2
    for stage in ("sft", "reward", "trial"):
        log = (found["folder"] / stage / "logs" / "rank-0.jsonl").read_text()
        ready = [json.loads(line) for line in log.splitlines() if '"ready"' in line]
        assert ready[-1]["answer"] == {"stage": "" if stage == "trial" else stage}


def test_ranks_start_anew_when_one_of_them_dies(found: dict[str, Any]) -> None:
    assert not {*pids(found["first"])} & {*found["after_death"]}
    assert found["after_death"] == pids(found["sft"])


def test_what_fails_by_itself_is_not_tried_again_and_leaves_no_processes(found: dict[str, Any]) -> None:
    assert found["failed"] == "ValueError: line 3: bad"
    assert 1 <= found["calls_of_what_fails"] <= 2, "once by each rank that was not ended before"
    assert found["kept_after_failure"] == []


def test_engines_and_scorers_come_up_with_the_first_stage(found: dict[str, Any]) -> None:
    assert found["taken"] == ["gen-0", "rank-0", "rank-1", "score-0"]
    log = (found["folder"] / "sft" / "logs" / "gen-0.jsonl").read_text()
    assert "process up" in log
    assert "libraries loaded" in log
