"""One hosted worker as the driver sees it: is it ready, is it alive, what did it last say of itself?"""

import contextlib
import logging
import os
import signal
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from orchestrator import disk
from orchestrator.actors import Host
from orchestrator.errors import RunFailed
from orchestrator.sections import SuperviseConfig

log = logging.getLogger(__name__)

BEAT_INTERVAL_S = 1.0
"""Ten beats fit the default heartbeat deadline, so one slow answer is no death."""


def cause_of(error: BaseException) -> str:
    """One line for people: the error behind Ray's wrapping, without its traceback."""
    inner = _inner(error)
    if isinstance(inner, RayActorError):
        return "its process died"
    lines = str(inner).strip().splitlines()
    return f"{type(inner).__name__}: {lines[0] if lines else 'no message'}"


def _inner(error: BaseException) -> BaseException:
    return error.cause if isinstance(error, RayTaskError) and error.cause is not None else error


def outcome(ref: Any) -> tuple[bool, Any, str | None]:
    """(finished, value, cause of failure) of a remote call, without waiting.

    RunFailed: it met a full disk, which is the death of nobody: whoever is started in its place would meet it again.
    """
    if not ray.wait([ref], timeout=0)[0]:
        return False, None, None
    try:
        return True, ray.get(ref), None
    except (RayError, OSError) as error:
        inner = _inner(error)
        if disk.is_full(inner):
            raise RunFailed(str(inner)) from error
        return True, None, cause_of(error)


def answered(ref: Any, *, who: str, timeout_s: float) -> bool:
    """Wait for a remote call; False: its process died meanwhile. RunFailed: no answer in time."""
    try:
        ray.get(ref, timeout=timeout_s)
    except RayActorError:
        return False
    except GetTimeoutError as error:
        raise RunFailed(f"{who} did not answer for {timeout_s:.0f} s") from error
    return True


class Member:
    """A worker process under supervision.

    pulse(now) asks for a heartbeat every second and returns the cause of death, or None while all is well.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        options: Mapping[str, Any],
        environment: Mapping[str, str],
        config: SuperviseConfig,
        now: float,
        meeting: Any = None,
        host: Any = None,
    ) -> None:
        """options: of the actor. environment: variables to set before it loads anything. meeting: the first rank's
        `meeting`, for the other ranks. host: the actor of an earlier worker, which becomes this one."""
        self.name: str = spec["name"]
        self.kind: str = spec["kind"]
        self.status: dict[str, Any] = {"state": "starting"}
        self.setup_answer: dict[str, Any] | None = None
        self._config = config
        self._asked_at = now
        self._beat: Any = None
        self._driver_node = spec["driver_node"]
        self.meeting = meeting
        self.actor: Any = host
        if host is not None:
            self.setup_call = host.become.remote(dict(spec))
            return
        self.actor = Host.options(**options).remote(dict(spec))  # type: ignore[attr-defined]
        if meeting is None and self.kind == "rank":
            self.meeting = self.actor.meeting_place.remote()
        # Once the place is known; by a call, since Ray keeps a record of what an actor was created with.
        self.setup_call = self.actor.setup.remote(dict(environment), self.meeting)
        log.info("process asked for", extra={"member": self.name})

    @property
    def ready(self) -> bool:
        return self.setup_answer is not None

    def pulse(self, now: float) -> str | None:
        if not self.ready:
            finished, answer, cause = outcome(self.setup_call)
            if cause:
                return f"could not start: {cause}"
            if finished:
                self.setup_answer, self._asked_at = answer, now
        return self._heartbeat(now)

    def _heartbeat(self, now: float) -> str | None:
        if self._beat is None and now - self._asked_at >= BEAT_INTERVAL_S:
            self._beat, self._asked_at = self.actor.beat.remote(), now
        if self._beat is not None:
            finished, status, cause = outcome(self._beat)
            if cause:
                return cause
            if finished:
                self.status, self._beat = status, None
        limit = self._config.heartbeat_s if self.ready else self._config.starting_s
        # Since the question, not since the last answer: a driver that was held up itself has asked nothing meanwhile.
        silent = now - self._asked_at if self._beat is not None else 0.0
        what = "no heartbeat" if "pid" in self.status else "no process came up"  # a cluster may have no room for it
        return f"{what} for {silent:.0f} s (limit {limit:.0f} s)" if silent > limit else None

    def kill(self) -> None:
        """End the process now, also one that is stopped and would not hear Ray (on another node Ray gives it 5 s)."""
        ray.kill(self.actor, no_restart=True)
        self._signal(signal.SIGKILL)

    def dump_stacks(self) -> bool:
        """Have it write its threads' stacks to its file; False: there is no process here to ask."""
        if "node" not in self.status:
            return False
        if self.status["node"] == self._driver_node:
            return self._signal(signal.SIGUSR1)
        self.actor.stacks.remote()
        return True

    def _signal(self, number: int) -> bool:
        """To a process of the driver's own node: elsewhere its number is another's."""
        pid = self.status.get("pid")
        if pid and self.status.get("node") == self._driver_node:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                return True
        return False
