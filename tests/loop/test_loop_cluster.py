"""The same recipe on an existing Ray cluster of two nodes, through the real command: the driver is killed, what it started
lives on, and a resume takes over.

70 s idle: one cluster, one start, one resume, one replay.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import STEPS
from loop_commands import HEADRACE, as_json, succeeded

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

NODES = Path(__file__).parents[1] / "ray_nodes.py"
PROCESSES = 4
"""An engine with 2 threads, a scorer and two ranks with 1 each: one CPU more than either node has to itself."""


@pytest.fixture
def cluster() -> Iterator[tuple[str, psutil.Process]]:
    """(address, the process under which all of the cluster lives)."""
    with tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, str(NODES), folder, "3:0", "2:0"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nodes:
            assert nodes.stdout is not None
            try:
                yield nodes.stdout.readline().strip(), psutil.Process(nodes.pid)
            finally:
                nodes.communicate()


def hosts(nodes: psutil.Process) -> list[psutil.Process]:
    """The processes that hold a worker of a run."""
    return [one for one in nodes.children(recursive=True) if (one.cmdline() or [""])[0].startswith("ray::Host")]


def test_a_driver_killed_on_a_cluster_is_followed_by_another(
    workplace: Path, cluster: tuple[str, psutil.Process]
) -> None:
    address, nodes = cluster
    run = workplace / "runs" / "cluster"
    overrides = ["run.name=cluster", f"ray.address={address}", "training.checkpoint.keep=10"]
    command = [HEADRACE, "run", "small.yaml", *overrides]
    with subprocess.Popen(command, cwd=workplace, stderr=subprocess.PIPE, text=True) as driver:
        assert driver.stderr is not None
        lines = []
        for line in driver.stderr:
            lines.append(line)
            if line.startswith("step 3/"):
                break
        driver.kill()
        driver.stderr.read()
    assert driver.returncode == -signal.SIGKILL, lines
    assert as_json("status", run, cwd=workplace)["state"] == "dead"
    left = hosts(nodes)
    assert len(left) == PROCESSES, "they outlive their driver"

    succeeded("resume", run, cwd=workplace)
    assert not any(one.is_running() for one in left), "what the first life left was ended"
    assert hosts(nodes) == [], "and the second has ended its own"
    log = [json.loads(line) for line in (run / "logs" / "driver.jsonl").read_text().splitlines()]
    ended = next(line["actors"] for line in log if line["event"] == "actors of earlier lives ended")
    assert ended == [f"headrace/cluster/e1/{name}.0" for name in ("gen-0", "rank-0", "rank-1", "score-0")]
    assert [set(line["nodes"]) for line in log if line["event"] == "placed"] == [{"127.0.0.2", "127.0.0.3"}] * 2

    status = as_json("status", run, cwd=workplace)
    assert (status["state"], status["step"], status["published"]) == ("completed", STEPS, STEPS)
    balance = as_json("audit", run, cwd=workplace)
    assert balance["balanced"]
    assert (balance["outcomes"]["trained"], balance["unsettled"]) == (STEPS * 4, 0)
    again = as_json("run", "--replay", run, cwd=workplace)
    assert again["identical"]
    assert (again["from_step"], again["to_step"]) == (0, STEPS)
