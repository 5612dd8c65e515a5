"""Drives the trainer's ranks, one collective operation at a time, and starts all of them anew when any fails.

    compose(k+1) ─ runs on rank 0 beside ─ train(k) ─▶ publish(k) ─▶ checkpoint(k) ─▶ train(k+1) …

Ranks fetch batches from the ledger themselves: what travels through Ray is the step's number. No rank ever waits for
data inside a collective, because `train` is called only for a batch that is committed.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.config import Recipe
from orchestrator.member import Member, outcome
from orchestrator.supervise import back_off

log = logging.getLogger(__name__)

Operation = tuple[str, tuple[Any, ...]]


class Trainer:
    """tick(now) never blocks. `step` trained, `committed` batches, `published` newest version in the store.

    on_step(report) after each step, on_published(answer) once a version's manifest is committed.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        spawn: Callable[[int, float], list[Member]],
        committed: int,
        published: int,
        on_step: Callable[[Mapping[str, Any]], None],
        on_published: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._recipe, self._spawn = recipe, spawn
        self._on_step, self._on_published = on_step, on_published
        self.committed, self.published = committed, published
        self.step = -1
        self.saved = -1
        self.restarts = 0
        self.ranks: list[Member] = []
        self.final = False
        """Set by the run: after the step in hand publish, checkpoint, and begin nothing new."""
        self._failures = 0
        self._start_at = 0.0
        self._forget()

    def _forget(self) -> None:
        """What the ranks were doing is gone with them."""
        self.step = -1
        self._due: deque[Operation] = deque()
        self._running: tuple[str, list[Any]] | None = None
        self._composing: Any = None
        self._publishing: Any = None
        self._saving: Any = None
        self._pending: dict[str, int] = {}

    # -- what the run asks ---------------------------------------------------------------------------------------------
    @property
    def started(self) -> bool:
        return self.step >= 0

    @property
    def settled(self) -> bool:
        """Nothing is running, published and saved up to the newest step."""
        return (
            self.started
            and self._running is None
            and not self._due
            and self._publishing is None
            and self._saving is None
            and self.saved >= self.step
            and self.published >= self.step
        )

    @property
    def finished(self) -> bool:
        return self.step >= self._recipe.run.steps and self.settled

    def doing(self) -> str:
        """In words, for status and diagnosis."""
        parts = [self._running[0] if self._running else "", f"compose {self.committed + 1}" if self._composing else ""]
        parts += ["writing a version" if self._publishing else "", "writing a checkpoint" if self._saving else ""]
        return ", ".join(part for part in parts if part) or ("idle" if self.started else "starting")

    def pending_calls(self) -> list[Any]:
        """Calls whose end is worth waking up for."""
        running = self._running[1] if self._running else []
        return [*running, *(ref for ref in (self._composing, self._publishing, self._saving) if ref is not None)]

    # -- the state machine ---------------------------------------------------------------------------------------------
    def tick(self, now: float) -> None:
        if not self.ranks:
            if now >= self._start_at:
                self.ranks = self._spawn(self.restarts, now)
            return
        cause = next((f"{rank.name}: {why}" for rank in self.ranks if (why := rank.pulse(now))), None)
        cause = cause or self._collect(now)
        if cause:
            self._restart(cause, now)
        elif not self.started:
            self._begin_once_ready(now)
        else:
            self._advance(now)

    def _begin_once_ready(self, now: float) -> None:
        if not all(rank.ready for rank in self.ranks):
            return
        answers = [rank.setup_answer or {} for rank in self.ranks]
        steps = {answer["step"] for answer in answers}
        assert len(steps) == 1, f"ranks loaded different cuts: {steps}"
        self.step = self.saved = steps.pop()
        self._last_cut_at = now
        log.info("trainer ready", extra={"step": self.step, "committed": self.committed, "published": self.published})
        if self.published < self.step or self.published < 0:
            self._due.append(("publish", (self.step,)))

    def _advance(self, now: float) -> None:
        lead = self.ranks[0].actor
        composed_ahead = self.committed - self.step
        if (
            self._composing is None
            and not self.final
            and composed_ahead < 2
            and self.committed < self._recipe.run.steps
        ):
            self._composing = lead.compose.remote(self.committed + 1)
        if self.final and self._composing is not None:
            lead.stop.remote()
        if self._running is not None:
            return
        if not self._due:
            self._plan(now)
        if self._due and self._may_start(self._due[0][0]):
            name, arguments = self._due.popleft()
            self._running = (name, [rank.actor.call.remote(name, *arguments) for rank in self.ranks])
            self._pending[name] = arguments[0]

    def _plan(self, now: float) -> None:
        """What comes next when no operation is due."""
        if self.final:
            if self.published < self.step and self._publishing is None:
                self._due.append(("publish", (self.step,)))
            if self.saved < self.step and self._saving is None:
                self._due.append(("checkpoint", (self.step, self.published)))
        elif self.step < self.committed:
            self._due.append(("train", (self.step + 1,)))

    def _may_start(self, name: str) -> bool:
        """One version and one checkpoint in writing at a time: their copies are memory."""
        return not (name == "publish" and self._publishing) and not (name == "checkpoint" and self._saving)

    def _collect(self, now: float) -> str | None:
        """Take in what has finished; the cause if something failed."""
        if self._running is not None:
            name, refs = self._running
            results = [outcome(ref) for ref in refs]
            for rank, (_, _, cause) in zip(self.ranks, results, strict=True):
                if cause:
                    return f"{rank.name} in {name}: {cause}"
            if all(done for done, _, _ in results):
                self._running = None
                self._completed(name, results[0][1], now)
        for attribute, done in (("_composing", self._composed), ("_publishing", self._wrote), ("_saving", self._cut)):
            ref = getattr(self, attribute)
            if ref is None:
                continue
            finished, answer, cause = outcome(ref)
            if cause and not (attribute == "_composing" and self.final):
                return f"{attribute[1:]}: {cause}"
            if finished:
                setattr(self, attribute, None)
                if not cause:
                    done(answer)
        return None

    def _completed(self, name: str, answer: Any, now: float) -> None:
        lead = self.ranks[0].actor
        timeout_s = self._recipe.experience.retry_s + self._recipe.training.compose_timeout_s
        if name == "train":
            self.step += 1
            self._failures = 0
            self._on_step(answer)
            self._after_step(now)
        elif name == "publish":
            self._publishing = lead.wait.remote("published", self._pending["publish"], timeout_s)
        elif name == "checkpoint":
            self._last_cut_at = now
            self._saving = lead.wait.remote("saved", self._pending["checkpoint"], timeout_s)

    def _after_step(self, now: float) -> None:
        last = self.step >= self._recipe.run.steps
        checkpoint = self._recipe.training.checkpoint
        if self.step > self.published and (last or self.step % self._recipe.pacing.publish_interval_batches == 0):
            self._due.append(("publish", (self.step,)))
        due_by_time = checkpoint.interval_s is not None and now - self._last_cut_at >= checkpoint.interval_s
        if last or self.step % checkpoint.interval_steps == 0 or due_by_time:
            self._due.append(("checkpoint", (self.step, self.published)))

    def _composed(self, answer: Mapping[str, Any]) -> None:
        self.committed = max(self.committed, int(answer["number"]))

    def _wrote(self, answer: Mapping[str, Any]) -> None:
        self.published = int(answer["number"])
        self._on_published(answer)

    def _cut(self, answer: Mapping[str, Any]) -> None:
        self.saved = int(answer["step"])
        self.ranks[0].actor.wait.remote("prune")

    def _restart(self, cause: str, now: float) -> None:
        for rank in self.ranks:
            rank.kill()
        self._failures += 1
        wait = back_off(self._recipe.supervise, failures=self._failures, who="the trainer", cause=cause)
        log.warning("all ranks restart", extra={"cause": cause, "step": self.step, "wait_s": wait})
        self.ranks, self._start_at = [], now + wait
        self.restarts += 1
        self._forget()

    def stop(self) -> None:
        for rank in self.ranks:
            rank.actor.stop.remote()
