"""A run's folder: the one place that names its files, and the lock that says whether its driver lives."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class RunAlive(ValueError):
    """Another driver holds the run; the message names its process."""


class RunFolder:
    """Paths below `<root>/<run id>/`. The store and the embedded server's data live beside them unless configured."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.recipe = self.path / "recipe.yaml"
        self.inputs = self.path / "inputs.json"
        self.logs = self.path / "logs"
        self.status = self.path / "status.json"
        self.metrics = self.path / "metrics.jsonl"
        self.targets = self.path / "targets.json"
        self.diagnosis = self.path / "diagnosis.json"
        self.redis = self.path / "redis"
        self.server = self.path / "server.json"
        self.faults = self.path / "faults"
        self._lock = self.path / "driver.lock"

    @property
    def run_id(self) -> str:
        return self.path.name

    def create(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)

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
                    raise RunAlive(
                        f"run {self.path} is still alive (driver process {pid}); "
                        f"remedy: wait for it, or `headrace stop {self.path}`"
                    )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def driver_pid(self) -> int | None:
        """Process id of the living driver, None when there is none; 0 = it took the lock and has not yet said who it is."""
        try:
            with self._lock.open("r") as file:
                return None if _try_lock(file, fcntl.LOCK_SH) else int(file.read() or 0)
        except FileNotFoundError:
            return None

    def write(self, path: Path, text: str) -> None:
        """Replace a small file whole, so that neither a reader nor a later life ever sees half of it."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(text)
            temporary.replace(path)
        except OSError as error:
            raise OSError(
                f"cannot write {path}: {error.strerror}; free space there, or make the folder writable"
            ) from error

    def write_json(self, path: Path, content: Mapping[str, Any] | list[Any]) -> None:
        self.write(path, json.dumps(content, indent=1) + "\n")

    def read_status(self) -> dict[str, Any]:
        try:
            content = json.loads(self.status.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(
                f"{self.status}: is no JSON ({error}); remedy: delete it, the next life writes it"
            ) from None
        if not isinstance(content, dict):
            raise ValueError(f"{self.status}: is no JSON object; remedy: delete it, the next life writes it")
        return content


def _try_lock(file: IO[str], how: int) -> bool:
    """Without waiting; the lock ends with the open file."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
