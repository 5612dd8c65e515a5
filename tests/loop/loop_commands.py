"""The real command in its own process, as a user runs it, and what a run's folder says of it meanwhile."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from experience.server import EmbeddedServer
from orchestrator.faults import VARIABLE

HEADRACE = str(Path(sys.executable).with_name("headrace"))
TIMEOUT_S = 300.0
"""Of one command, or of one wait: a cold start on two busy cores, and some steps."""
LOOK_S = 0.05

T = TypeVar("T")


def headrace(*arguments: str | Path, faults: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HEADRACE, *map(str, arguments)],
        cwd=cwd,
        env=_environment(faults),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def succeeded(*arguments: str | Path, faults: str = "", cwd: Path) -> str:
    done = headrace(*arguments, faults=faults, cwd=cwd)
    assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def as_json(*arguments: str | Path, cwd: Path) -> dict[str, Any]:
    return dict(json.loads(succeeded(*arguments, "--json", cwd=cwd)))


class Life:
    """A driver at work beside the test, and the folder of its run."""

    def __init__(self, process: "subprocess.Popen[str]", run: Path) -> None:
        self.process, self.run = process, run

    def until(self, what: str, condition: Callable[[], T]) -> T:
        """What the condition gives once it is true; fails where the driver ends before."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := condition()):
            assert self.process.poll() is None, f"the driver ended before {what}:\n{self.process.communicate()[1]}"
            assert time.monotonic() < deadline, f"{what} did not come: {self.status()}"
            time.sleep(LOOK_S)
        return found

    def reached(self, point: str) -> int:
        """Wait for the marker of a fault; the process that it holds up."""
        marker = self.run / "faults" / point
        return int(self.until(point, lambda: marker.exists() and marker.read_text()))

    def go_on(self, point: str) -> None:
        (self.run / "faults" / f"{point}.go").touch()

    def status(self) -> dict[str, Any]:
        path = self.run / "status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def all_serve(self, kind: str) -> bool:
        """Every worker of a kind is at work, generation on some version."""
        workers = {name: worker for name, worker in self.status()["workers"].items() if name.startswith(kind)}
        assert len(workers) <= 2
        return len(workers) == 2 and all(w["state"] == "running" and w.get("served") != "" for w in workers.values())

    def worker_of(self, pid: int) -> str:
        return str(next(name for name, worker in self.status()["workers"].items() if worker.get("pid") == pid))

    def server_pid(self) -> int | None:
        return EmbeddedServer(self.run / "redis").pid

    def ends(self) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)"""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


@contextmanager
def living(
    *arguments: str | Path, run: Path, faults: str = "", environment: Mapping[str, str] = {}, cwd: Path
) -> Iterator[Life]:
    """Whatever the test makes of it, no process is left behind."""
    process = subprocess.Popen(
        [HEADRACE, *map(str, arguments)],
        cwd=cwd,
        env=_environment(faults) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Life(process, run)
    finally:
        if process.poll() is None:
            kill_everything(process.pid)
            process.communicate()
        EmbeddedServer(run / "redis").stop()


def kill_everything(pid: int, *others: int | None) -> None:
    """SIGKILL a driver, all below it (Ray and every worker), and the others, before any of them can react."""
    driver = psutil.Process(pid)
    processes = [driver, *driver.children(recursive=True), *(psutil.Process(other) for other in others if other)]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()


def events(run: Path, worker: str, event: str) -> list[dict[str, Any]]:
    """Of that name, in the log of a worker (`*` = of any), in the order of each file."""
    files = sorted((run / "logs").glob(f"{worker}.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if line["event"] == event]


def redelivered(run: Path, worker: str, stage: str, sequence: int) -> float | None:
    """Seconds for which the entry had been silent when this worker took it over; None: it has not."""
    for line in events(run, worker, "entries redelivered"):
        if line["stage"] == stage and sequence in line["groups"]:
            return float(line["idle_s"][line["groups"].index(sequence)])
    return None


def _environment(faults: str) -> dict[str, str]:
    return os.environ | ({VARIABLE: faults} if faults else {})
