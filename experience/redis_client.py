"""The connection to Redis or Valkey: address, scripts, bounded retry, and errors in our own words.

Every call is one script and safe to repeat, so a call whose reply was lost is simply made again; the header of each file
in scripts/ says why.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from experience.buffer import BufferFull, BufferLost, BufferRefused, BufferUnavailable, Fenced
from experience.config import PASSWORD_VARIABLE, ExperienceConfig
from experience.metrics import RETRIES

log = logging.getLogger(__name__)

T = TypeVar("T")

KEYS = ("meta", "counters", "issued", "settled", "places", "alone", "failures",
        "prompts", "completions", "experience", "quarantine")  # fmt: skip
"""In the order that scripts/common.lua unpacks."""

_ANSWER_S = 10.0
"""A server silent for so long counts as gone: far above one fsync of a busy disk, far below the retry budget."""
_PORT = 6379
"""Where a server listens that no port was named for."""
_FIRST_DELAY_S, _LAST_DELAY_S = 0.05, 2.0
"""Back-off between tries, doubling."""
_PASSING_TYPES = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)
_PASSING_CODES = ("MISCONF ", "BUSY ", "NOREPLICAS ")
"""Replies of a server that cannot write now and may soon: disk full, busy, failing over."""
_EXEMPT, _LIMITED = "#!lua flags=allow-oom\n", "#!lua\n"
"""First line of a script: it runs though memory is full, or is refused before its first write."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a server is, in strings that may cross process borders and appear in logs: the password stays where it is."""

    url: str
    """unix:///path, redis://host:port/db or rediss://host:port/db."""
    username: str = ""
    password_file: str = ""
    """Its whole content, stripped, is the password."""
    password_variable: str = ""
    """Environment variable that holds the password, where no file does; empty or unset = none."""
    ca_file: str = ""
    """Authority that a rediss:// server's certificate must come from; empty = those of the system."""
    certificate_file: str = ""
    key_file: str = ""

    @classmethod
    def of(cls, config: ExperienceConfig) -> "Address":
        """A server of the user's own."""
        return cls(
            url=config.url,
            username=config.username or "",
            password_file=config.password_file or "",
            password_variable=PASSWORD_VARIABLE,
            ca_file=config.ca_file or "",
            certificate_file=config.certificate_file or "",
            key_file=config.key_file or "",
        )

    def connect(self) -> redis.Redis:
        """A thread-safe client that makes every call once: whoever calls decides about retries."""
        return redis.Redis.from_url(
            self.url,
            username=self.username or None,
            password=self._password(),
            socket_connect_timeout=_ANSWER_S,
            socket_timeout=_ANSWER_S,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            **(self._tls() if self.url.startswith("rediss://") else {}),
        )

    def _password(self) -> str | None:
        if self.password_file:
            return Path(self.password_file).read_text().strip()
        return os.environ.get(self.password_variable) or None

    def _tls(self) -> dict[str, Any]:
        """The server's certificate must be valid, and name the host that was asked for."""
        return {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": self.ca_file or None,
            "ssl_certfile": self.certificate_file or None,
            "ssl_keyfile": self.key_file or None,
        }


class _Script:
    """Called by its digest, and by its text where the server does not know it: SCRIPT LOAD is refused when memory is full."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: redis.Redis, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        try:
            return client.evalsha(self._digest, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return client.eval(self._text, len(keys), *keys, *arguments)


class RedisClient:
    """Runs our scripts on one run's keys `headrace:{run_id}:…`; thread-safe."""

    def __init__(
        self,
        connect: Callable[[], redis.Redis],
        *,
        run_id: str,
        retry_s: float,
        explain: Callable[[], str] = lambda: "",
    ) -> None:
        """explain: what else is known when the server is given up, for the message."""
        if not run_id or any(character in run_id for character in "{} \n"):
            raise ValueError(
                f"run_id = {run_id!r}: must be a name without braces and spaces, since keys are built of it"
            )
        self.prefix = f"headrace:{{{run_id}}}:"
        self._keys = [self.prefix + name for name in KEYS]
        self._retry_s, self._explain = retry_s, explain
        self._redis = connect()
        self.url = _url(self._redis)
        folder = resources.files("experience") / "scripts"
        common = (folder / "common.lua").read_text()
        texts = {
            file.name.removesuffix(".lua"): common + file.read_text()
            for file in folder.iterdir()
            if file.name.endswith(".lua") and file.name != "common.lua"
        }
        self._scripts = {name: _Script(_EXEMPT + text) for name, text in texts.items()}
        self._scripts["issue_new"] = _Script(_LIMITED + texts["issue"])
        self._closed = threading.Event()

    def run(self, script: str, *arguments: str | bytes | int) -> Any:
        """One script's reply. Fenced, ValueError (the script refused), BufferFull (`issue_new` alone), BufferUnavailable (after the
        retry budget)."""
        return self._retry(lambda: self._scripts[script].run(self._redis, self._keys, arguments))

    def ask(self, question: Callable[[redis.Redis], T]) -> T:
        """What the server itself answers, with the same patience. BufferRefused, BufferUnavailable."""
        return self._retry(lambda: question(self._redis))

    def eviction_policy(self) -> str:
        """The server's maxmemory-policy; from INFO, which restricted users may call where CONFIG is denied."""
        return str(self.ask(lambda server: server.info("memory"))["maxmemory_policy"])

    def info(self) -> dict[str, Any]:
        """What the server tells of its memory, persistence and clients, asked once. redis.RedisError."""
        return dict(self._redis.info("memory", "persistence", "clients"))

    def wait_for_entry(self, stream: str, *, after: str, timeout_s: float) -> None:
        """Return once the stream has an entry later than `after`, or after the time-out."""
        block_ms = max(1, int(timeout_s * 1000))
        self.ask(lambda server: server.xread({self.prefix + stream: after}, count=1, block=block_ms))

    def close(self) -> None:
        """End waits and connections; idempotent."""
        self._closed.set()
        self._redis.close()

    def _retry(self, call: Callable[[], T]) -> T:
        """Repeat while the server does not answer, with back-off, until the budget is spent."""
        first_failure: float | None = None
        delay = _FIRST_DELAY_S
        while True:
            try:
                return call()
            except redis.AuthenticationError as error:
                raise BufferRefused(
                    f"{self.url} refuses our password: {error}; check experience.username and experience.password_file, "
                    f"or {PASSWORD_VARIABLE}"
                ) from error
            except redis.exceptions.NoPermissionError as error:
                raise BufferRefused(
                    f"{self.url} forbids our user what a run needs: {error}; give it the rights that docs/operating.md lists"
                ) from error
            except redis.exceptions.OutOfMemoryError as error:
                raise BufferFull(
                    f"{self.url} is full: {error}; raise experience.memory_mib, or its maxmemory"
                ) from error
            except redis.ResponseError as error:
                if not isinstance(error, _PASSING_TYPES) and not str(error).startswith(_PASSING_CODES):
                    raise _translated(error) from error
                failure: Exception = error
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise BufferRefused(
                        f"{self.url} shows a certificate that is not trusted: {error}; name the host as its certificate "
                        "does, and the authority that signed it in experience.ca_file"
                    ) from error
                failure = error
            now = time.monotonic()
            first_failure = now if first_failure is None else first_failure
            if now + delay - first_failure > self._retry_s or self._closed.wait(delay):
                raise BufferUnavailable(self._gone(failure, now - first_failure)) from failure
            RETRIES.inc()
            log.warning("buffer_retry", extra={"url": self.url, "error": str(failure), "delay_s": delay})
            delay = min(2 * delay, _LAST_DELAY_S)

    def _gone(self, failure: Exception, silent_s: float) -> str:
        """A server that answers and refuses (a full disk under its append-only file) says why itself."""
        refuses = isinstance(failure, redis.ResponseError)
        what = "refused our writes" if refuses else "did not answer"
        known = self._explain()
        return f"{self.url} {what} for {silent_s:.0f} s: {failure}" + (f"; {known}" if known else "")

    def __repr__(self) -> str:
        return f"RedisClient({self.url}, {self.prefix})"


def _url(client: redis.Redis) -> str:
    """Where a client connects to, for messages: without user and password."""
    pool = client.connection_pool
    if "path" in pool.connection_kwargs:
        return f"unix://{pool.connection_kwargs['path']}"
    scheme = "rediss" if issubclass(pool.connection_class, redis.SSLConnection) else "redis"
    host = pool.connection_kwargs.get("host", "localhost")
    return f"{scheme}://{host}:{pool.connection_kwargs.get('port', _PORT)}"


def _translated(error: redis.ResponseError) -> Exception:
    """What a script's error reply means."""
    code, _, text = str(error).partition(" ")
    if code == "FENCED":
        return Fenced(f"{text}: this process belongs to an older life of the run")
    if code == "LOST":
        return BufferLost(
            f"{text}: the server has lost what it had acknowledged (it restarted without its last writes, or was flushed); "
            "`headrace resume` goes on, and issues anew what is gone"
        )
    if code == "REFUSED":
        return ValueError(text)
    return error
