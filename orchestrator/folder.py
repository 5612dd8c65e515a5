"""A run's folder: the one place that names its files, and the lock that says whether its driver lives."""

import fcntl
import json
import os
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from orchestrator.disk import append_whole, is_full
from weightstore.blobs import StoreError, reported

LIVING = ("starting", "running")
"""States of a run whose driver lives, or died without a word."""
REMOVING = "removing"
"""The state of a run that `headrace runs rm` has begun to remove."""

_LAST_SIGN_S, _LOOK_S = 10.0, 0.25
"""How long to watch for a sign of life from another host: a driver writes its status every second once Ray has started."""
_RESERVE_BYTES = 128 * 1024
"""Twice a status.json of many workers, and some blocks for its folder entry."""


class RunAlive(ValueError):
    """Another driver holds the run; the message names its process."""


_STATUS_KINDS = {"run": str, "state": str, "step": int, "steps": int}
"""Of what every command reads there: one damaged status must not hide the other runs of a list."""


class RunFolder:
    """Paths below `<root>/<run id>/`. The store and the embedded server's data live beside them unless configured."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.recipe = self.path / "recipe.yaml"
        self.inputs = self.path / "inputs.json"
        self.data = self.path / "data.json"
        self.logs = self.path / "logs"
        self.status = self.path / "status.json"
        self.metrics = self.path / "metrics.jsonl"
        self.timeline = self.path / "timeline.jsonl"
        self.evaluations = self.path / "evaluations.jsonl"
        self.best = self.path / "best"
        self.targets = self.path / "targets.json"
        self.shared_targets = self.path.parent / ".targets" / f"{self.path.name}.json"
        self.diagnosis = self.path / "diagnosis.json"
        self.policy = self.path / "policy"
        self.evaluation = self.path / "evaluation.json"
        self.samples = self.path / "samples.jsonl"
        self.report = self.path / "report.html"
        self.redis = self.path / "redis"
        self.server = self.path / "server.json"
        self.sinks = self.path / "sinks.json"
        self.faults = self.path / "faults"
        self._reserve = self.path / "reserve"
        self._lock = self.path / "driver.lock"

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def quoted(self) -> str:
        """The path as a shell takes it, for remedies that people copy."""
        return shlex.quote(str(self.path))

    def create(self) -> None:
        with reported("write", self.path):
            self.logs.mkdir(parents=True, exist_ok=True)
            if not self._reserve.exists():
                self._reserve.write_bytes(os.urandom(_RESERVE_BYTES))  # which no filesystem compresses

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run as its only driver on this machine; the kernel lets go of the lock when the process dies."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._lock.open("a+")
        except OSError as error:
            raise ValueError(
                f"run folder {self.path}: cannot be written ({error.strerror}); remedy: set run.root to a folder that can"
            ) from None
        with lock as file:
            while not _try_lock(file, fcntl.LOCK_EX):
                pid = self.driver_pid()
                if pid is not None:  # None: somebody only looked at the lock, which takes microseconds
                    # A stage's folder, or a pipeline's, is no run that `headrace stop` could find.
                    end = f"headrace stop {self.quoted}" if self.recipe.exists() else f"kill {pid}"
                    raise RunAlive(
                        f"run {self.path} is still alive (driver process {pid}); remedy: wait for it, or `{end}`"
                    )
            self._refuse_driver_elsewhere()
            with reported("write", self._lock):
                file.truncate(0)
                file.write(f"{os.getpid()} {socket.gethostname()}")
                file.flush()
            yield

    def driver_pid(self) -> int | None:
        """Process id of the living driver, None when there is none; 0 = it took the lock and has not yet said who it is."""
        try:
            with self._lock.open("r") as file:
                return None if _try_lock(file, fcntl.LOCK_SH) else int(file.read().partition(" ")[0] or 0)
        except FileNotFoundError:
            return None

    def other_host(self) -> str:
        """The host of the last driver where that is not this one, "" else: its lock may not reach us (localflock, say)."""
        try:
            host = self._lock.read_text().partition(" ")[2]
        except FileNotFoundError:
            return ""
        return host if host != socket.gethostname() else ""

    def _refuse_driver_elsewhere(self) -> None:
        """RunAlive while a driver on another host writes its status: seen by its change, since clocks may differ."""
        host = self.other_host()
        if not host or not self.says(*LIVING):
            return
        first, deadline = self.status.read_bytes(), time.monotonic() + _LAST_SIGN_S
        while time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            if self.status.read_bytes() != first and self.says(*LIVING):
                raise RunAlive(
                    f"run {self.path} is still alive on host {host}, whose lock does not reach this one; "
                    f"remedy: `headrace stop` it there"
                )

    def says(self, *states: str) -> bool:
        """The status is one of these; a damaged one is none, and hinders no life: it writes its own."""
        try:
            return self.read_status().get("state") in states
        except ValueError:
            return False

    def write(self, path: Path, text: str) -> None:
        """Replace a small file whole, so that neither a reader nor a later life ever sees half of it."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with reported("write", path):
            try:
                temporary.write_text(text, encoding="utf-8")  # whatever the locale
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def append(self, path: Path, line: str) -> None:
        """Add a line whole, or nothing. StoreError: no room for it, say."""
        with reported("write", path), path.open("ab", buffering=0) as file:
            append_whole(file, line.encode() + b"\n")

    def write_last(self, content: Mapping[str, Any]) -> None:
        """status.json's last word of a life, on a full disk too: with the room that `create` has set aside."""
        try:
            self.write_json(self.status, content)
        except StoreError as error:
            if not is_full(error):
                raise
            self._reserve.unlink(missing_ok=True)
            self.write_json(self.status, content)

    def write_json(self, path: Path, content: Mapping[str, Any] | list[Any]) -> None:
        self.write(path, json.dumps(content, indent=1) + "\n")

    def written_bytes(self) -> int:
        """By all lives so far, as the last one said; 0 where it left nothing readable."""
        try:
            return int(self.read_status().get("written_bytes", 0))
        except (ValueError, TypeError):
            return 0

    def read_status(self) -> dict[str, Any]:
        try:
            content = json.loads(self.status.read_text())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{self.status}: is no JSON ({error}); remedy: delete it, the next life writes it"
            ) from None
        if not isinstance(content, dict):
            raise ValueError(f"{self.status}: is no JSON object; remedy: delete it, the next life writes it")
        for name, kind in _STATUS_KINDS.items():
            if not isinstance(content.get(name, kind()), kind):
                raise ValueError(
                    f"{self.status}: {name} = {content[name]!r} was not written by a run; remedy: delete it, the next life writes it"
                )
        return content


def state_of(content: Mapping[str, Any], *, alive: bool) -> str:
    """What a status says, unless its driver could not say it any more. `new`: it never came to run."""
    state = str(content.get("state", "new"))
    return "dead" if state in LIVING and not alive else state


def _try_lock(file: IO[str], how: int) -> bool:
    """Without waiting; the lock ends with the open file."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
