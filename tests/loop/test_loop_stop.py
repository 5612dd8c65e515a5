"""Ctrl-C through the real command: the step in hand is finished and saved, nothing stays behind, and a resume goes on.

While it runs, all of its servers listen on loopback alone.
"""

import signal
import subprocess
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from loop_commands import HEADRACE, TIMEOUT_S, as_json, succeeded

pytestmark = pytest.mark.faults

STEPS = 40


def listening(driver: psutil.Process) -> set[str]:
    """Addresses on which the driver and all below it, Ray and every worker, take connections."""
    processes = [driver, *driver.children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections(kind="tcp")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


def test_ctrl_c_stops_cleanly_and_a_resume_completes(workplace: Path) -> None:
    run = workplace / "runs" / "interrupted"
    command = [HEADRACE, "run", "small.yaml", "run.name=interrupted", f"run.steps={STEPS}"]
    with subprocess.Popen(command, cwd=workplace, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        for line in driver.stderr:
            if line.startswith("step 3/"):
                break
        addresses = listening(psutil.Process(driver.pid))
        driver.send_signal(signal.SIGINT)
        out, _ = driver.communicate(timeout=TIMEOUT_S)
    assert addresses
    assert [address for address in addresses if not ip_address(address.removeprefix("::ffff:")).is_loopback] == []
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
