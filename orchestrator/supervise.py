"""Keeps the stateless workers alive: generation and scoring are restarted one by one, with back-off, up to a limit."""

import logging
from collections.abc import Callable
from typing import Any, Literal

from orchestrator.errors import RunFailed
from orchestrator.member import Member, outcome
from orchestrator.sections import SuperviseConfig

log = logging.getLogger(__name__)

BACKOFF_MAX_S = 60.0
"""A machine that comes back is used again within a minute."""

Kind = Literal["gen", "score"]


def back_off(config: SuperviseConfig, *, failures: int, who: str, cause: str) -> float:
    """Seconds to wait before the next start; RunFailed once the limit is passed."""
    if failures > config.restart_limit:
        raise RunFailed(f"{who} died {failures} times without a step trained in between: {cause}")
    doublings = min(failures - 1, 64)  # a float ends at 1024
    return min(config.restart_backoff_s * 2**doublings, BACKOFF_MAX_S)


class Slot:
    """A place that one worker fills at a time, whatever becomes of each."""

    def __init__(self, kind: Kind, index: int) -> None:
        self.kind, self.index = kind, index
        self.member: Member | None = None
        self.loop: Any = None
        self.lives = 0
        self.failures = 0
        """Deaths since the run last made progress."""
        self.start_at = 0.0


class Supervisor:
    """tick(now) starts what is missing, notices what died, and raises RunFailed when a slot keeps dying."""

    def __init__(
        self,
        config: SuperviseConfig,
        *,
        counts: dict[Kind, int],
        spawn: Callable[[Kind, int, int, float], Member],
    ) -> None:
        self._config = config
        self._spawn = spawn
        self.slots = [Slot(kind, index) for kind, count in counts.items() for index in range(count)]
        self.restarts = 0

    def tick(self, now: float) -> None:
        for slot in self.slots:
            if slot.member is None:
                if now >= slot.start_at:
                    slot.member = self._spawn(slot.kind, slot.index, slot.lives, now)
                    slot.lives += 1
                continue
            cause = slot.member.pulse(now) or self._loop(slot)
            if cause:
                self._bury(slot, cause, now)

    def _loop(self, slot: Slot) -> str | None:
        """Start the worker's loop once it is ready; the cause if the loop has ended."""
        assert slot.member is not None
        if slot.loop is None:
            if slot.member.ready:
                slot.loop = slot.member.actor.run.remote()
            return None
        finished, _, cause = outcome(slot.loop)
        return (cause or "its loop ended") if finished else None

    def _bury(self, slot: Slot, cause: str, now: float) -> None:
        assert slot.member is not None
        slot.member.kill()
        slot.failures += 1
        wait = back_off(self._config, failures=slot.failures, who=slot.member.name, cause=cause)
        log.warning("worker restarts", extra={"member": slot.member.name, "cause": cause, "wait_s": wait})
        slot.member, slot.loop, slot.start_at = None, None, now + wait
        self.restarts += 1

    def progressed(self) -> None:
        """A step was trained: what died before it is forgiven."""
        for slot in self.slots:
            slot.failures = 0

    def members(self) -> list[Member]:
        return [slot.member for slot in self.slots if slot.member is not None]
