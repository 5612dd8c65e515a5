"""The evaluator's process as the driver keeps it: started, asked one thing at a time, started again when it fails."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.member import Member, outcome
from orchestrator.periodic import metrics
from orchestrator.sections import SuperviseConfig
from orchestrator.supervise import back_off

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question on its way."""

    method: str
    version: str
    call: Any
    at: float
    """Seconds on the driver's monotonic clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    asked: Asked
    answer: Mapping[str, Any]
    seconds: float


class Post:
    """tick(now) never blocks; it gives an answer once, and None otherwise.

    A process that dies, fails or takes longer than `deadline_s` over one question is replaced after a growing wait, and
    its question forgotten; past supervise.restart_limit failures in a row `closed` says why, and nothing is started any
    more: the run goes on without. RunFailed: it met a full disk, as whoever is started in its place would.
    """

    def __init__(
        self, config: SuperviseConfig, *, deadline_s: float, spawn: Callable[[str, int, int, float], Member]
    ) -> None:
        self._config, self._deadline_s, self._spawn = config, deadline_s, spawn
        self._member: Member | None = None
        self.asked: Asked | None = None
        self.closed = ""
        self.lives = 0
        self._failures = 0
        """In a row."""
        self._start_at = 0.0

    def tick(self, now: float) -> Answered | None:
        if self.closed:
            return None
        if self._member is None:
            if now >= self._start_at:
                self._member = self._spawn("eval", 0, self.lives, now)
                self.lives += 1
            return None
        cause, answered = self._member.pulse(now), None
        if not cause:
            cause, answered = self._collect(now)
        if cause:
            self._bury(cause, now)
        return answered

    @property
    def free(self) -> bool:
        """A question can be asked."""
        return not self.closed and self._member is not None and self._member.ready and self.asked is None

    def ask(self, now: float, method: str, version: str) -> None:
        assert self.free, "one question at a time, of an evaluator that is ready"
        assert self._member is not None
        call = self._member.actor.call.remote(method, version)
        self.asked = Asked(method=method, version=version, call=call, at=now)

    def close(self, cause: str) -> None:
        """Ask no more, and end the process."""
        self.closed, self.asked = cause, None
        for member in self.members():
            member.kill()
        self._member = None

    def members(self) -> list[Member]:
        return [self._member] if self._member is not None else []

    def _collect(self, now: float) -> tuple[str | None, Answered | None]:
        """(cause of failure, answer)"""
        if self.asked is None:
            return None, None
        asked, waited = self.asked, now - self.asked.at
        finished, answer, cause = outcome(asked.call)
        if cause:
            return f"{asked.method} {asked.version}: {cause}", None
        if finished:
            self.asked, self._failures = None, 0
            return None, Answered(asked=asked, answer=answer, seconds=waited)
        if waited > self._deadline_s:
            return f"{asked.method} {asked.version}: no answer in evaluation.deadline_s = {self._deadline_s:g}", None
        return None, None

    def _bury(self, cause: str, now: float) -> None:
        assert self._member is not None
        name = self._member.name
        self._member.kill()
        self._member, self.asked = None, None
        self._failures += 1
        metrics.FAILURES.inc()
        if self._failures > self._config.restart_limit:
            self.closed = f"{name} failed {self._failures} times in a row: {cause}"
            return
        wait = back_off(self._config, failures=self._failures, who=name, cause=cause)
        log.warning("worker restarts", extra={"member": name, "cause": cause, "wait_s": wait})
        self._start_at = now + wait
