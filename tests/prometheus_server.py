"""A real Prometheus on loopback for tests: found, started on an ephemeral port with storage of its own, asked, stopped."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

BESIDE_PYTHON = Path(sys.prefix) / "test-servers"
"""Where requirements/install puts the programs without root."""
LOOPBACK = "127.0.0.1"
READY_S = 60.0
"""A start takes 0.3 s on an idle machine."""
LOOK_S = 0.05
ATTEMPTS = 5
"""A port that was free may be taken before Prometheus listens on it, which cannot choose one itself."""

T = TypeVar("T")


def binary(name: str) -> str:
    """`prometheus` or `promtool`. Never skips: both are part of the installation."""
    for candidate in (BESIDE_PYTHON / name, shutil.which(name)):
        if candidate and Path(candidate).exists():
            return str(candidate)
    raise RuntimeError(f"{name} is not installed: run `requirements/install test-servers`")


@dataclass(frozen=True)
class Prometheus:
    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of the HTTP API v1. RuntimeError: refused, with Prometheus's own words."""
        address = f"{self.url}/api/v1/{path}"
        if parameters:
            address += "?" + urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path} {parameters}: {error.read().decode(errors='replace')}") from None

    def query(self, expression: str, *, at: float | None = None) -> list[dict[str, Any]]:
        """An instant vector: [{"metric": {label: value}, "value": [time, "text"]}]; at: Unix time, None = now."""
        when = {} if at is None else {"time": str(at)}
        return list(self.get("query", query=expression, **when)["result"])

    def query_range(self, expression: str, *, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """[{"metric": {label: value}, "values": [[time, "text"], …]}]; start, end: Unix times."""
        span = {"start": str(start), "end": str(end), "step": str(step_s)}
        return list(self.get("query_range", query=expression, **span)["result"])

    def targets(self) -> list[dict[str, Any]]:
        """Those in force: `labels`, `scrapeUrl`, `health` (up, down, unknown), `lastError`, `scrapePool`."""
        return list(self.get("targets", state="active")["activeTargets"])

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}

    def until(self, what: str, condition: Callable[[], T], *, timeout_s: float = READY_S) -> T:
        """What the condition gives once it is true."""
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            assert self.process.poll() is None, f"Prometheus ended before {what}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:g} s"
            time.sleep(LOOK_S)
        return found

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def running(configuration: str | Path) -> Iterator[Prometheus]:
    """A ready server, and none once the block ends. Relative paths in the file are relative to the file's folder."""
    with tempfile.TemporaryDirectory(prefix="prometheus") as folder:
        server = _started(Path(configuration).resolve(), Path(folder))
        try:
            yield server
        finally:
            _stop(server.process)


def _started(configuration: Path, folder: Path) -> Prometheus:
    for _ in range(ATTEMPTS):
        log, port = folder / "log", _free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(_command(configuration, folder, port), stdout=output, stderr=output, cwd=folder)
        server = Prometheus(url=f"http://{LOOPBACK}:{port}", process=process, log=log)
        if _ready(server):
            return server
        _stop(process)
        if "address already in use" not in log.read_text():
            break
    raise RuntimeError(f"Prometheus did not start:\n{log.read_text()}")


def _command(configuration: Path, folder: Path, port: int) -> list[str]:
    return [
        binary("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--log.level=warn",
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _ready(server: Prometheus) -> bool:
    """False: it ended, or was not ready in time."""
    deadline = time.monotonic() + READY_S
    while server.process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=READY_S):
                return True
        except OSError:  # not yet listening, or 503: not yet ready
            time.sleep(LOOK_S)
    return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(READY_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def promtool(*arguments: str | Path, environment: Mapping[str, str] = {}) -> "subprocess.CompletedProcess[str]":
    """The result, whatever it is; what it has to say may be on either output."""
    command = [binary("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
