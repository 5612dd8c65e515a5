"""Ctrl-C through the real command: the step in hand is finished and saved, nothing stays behind, and a resume goes on."""

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from loop_commands import HEADRACE, TIMEOUT_S, as_json, succeeded

pytestmark = pytest.mark.faults

STEPS = 40


def test_ctrl_c_stops_cleanly_and_a_resume_completes(workplace: Path) -> None:
    run = workplace / "runs" / "interrupted"
    command = [HEADRACE, "run", "small.yaml", "run.name=interrupted", f"run.steps={STEPS}"]
    with subprocess.Popen(command, cwd=workplace, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        for line in driver.stderr:
            if line.startswith("step 3/"):
                break
        driver.send_signal(signal.SIGINT)
        out, _ = driver.communicate(timeout=TIMEOUT_S)
    assert driver.returncode == 0
    assert "stopped at step" in out
    status = as_json("status", run, cwd=workplace)
    assert status["state"] == "stopped"
    assert 3 <= status["step"] == status["published"] == status["saved"] < STEPS
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(run) in command]

    succeeded("resume", run, cwd=workplace)
    assert as_json("status", run, cwd=workplace)["step"] == STEPS
    assert as_json("audit", run, cwd=workplace)["balanced"]
