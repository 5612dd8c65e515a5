"""One run whose driver is killed and resumed at one point of the protocol after the other, through the real command.

A life costs a start, so the points here are those at which a whole new life differs: before any worker exists, between
two stores, after a commit, with a version half made and everything gone at once, and asked to stop. With the ranks of the
replay some 190 s on two idle cores, of which the starts are nine tenths.
`test_loop_points.py` goes through all the others by the same functions on the same stores, without engines and ranks.
"""

import signal
from ipaddress import ip_address
from pathlib import Path

import psutil
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
    the_driver_dies(run, "batch.commit.after@3", "resume", run, cwd=workplace)
    with living("resume", run, run=run, faults="version.manifest.before@5:pause", cwd=workplace) as life:
        everything_dies_at_once(life)
    assert as_json("status", run, cwd=workplace)["state"] == "dead"
    with living("resume", run, run=run, faults="batch.commit.before@8:pause", cwd=workplace) as life:
        it_is_asked_to_stop(life)
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
    """The driver, Ray, all workers and the server, with the files of a version in the store and no manifest beside them."""
    life.reached("version.manifest.before@5")
    kill_everything(life.process.pid, life.server_pid())
    assert life.ends()[0] == SIGKILLED
    assert life.server_pid() is None


def it_is_asked_to_stop(life: Life) -> None:
    """Ctrl-C: what is in hand is finished and saved, nothing stays behind. All servers listened on loopback alone.

    Batch 8 is held up, so that the run does not complete before it is asked.
    """
    life.reached("batch.commit.before@8")
    addresses = listening(psutil.Process(life.process.pid))
    life.process.send_signal(signal.SIGINT)
    life.go_on("batch.commit.before@8")
    code, out, err = life.ends()
    assert code == 0, err
    assert "stopped at step" in out
    assert addresses
    assert [address for address in addresses if not ip_address(address.removeprefix("::ffff:")).is_loopback] == []
    status = life.status()
    assert status["state"] == "stopped"
    assert 5 <= status["step"] == status["published"] == status["saved"] < STEPS
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(life.run) in command]


def listening(driver: psutil.Process) -> set[str]:
    """Addresses on which the driver and all below it, Ray and every worker, take connections."""
    processes = [driver, *driver.children(recursive=True)]
    sockets = [socket for process in processes for socket in process.net_connections(kind="tcp")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
