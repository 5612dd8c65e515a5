"""Drives the trainer's ranks, one collective operation at a time, and starts all of them anew when any fails.

    compose(k+1) ─ runs on rank 0 beside ─ train(k) ─▶ publish(k) ─▶ checkpoint(k) ─▶ train(k+1) …

Ranks fetch batches from the ledger themselves: what travels through Ray is the step's number. No rank ever waits for
data inside a collective, because `train` is called only for a batch that is committed.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from orchestrator.config import Recipe
from orchestrator.member import Member, answered, outcome
from orchestrator.supervise import back_off

log = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 1800.0
"""For a version or a checkpoint to be written behind the training; a store slower than that is broken."""

HOLD_TIMEOUT_S = 60.0
"""For the commit of a batch that is under way, beyond what the store's client may take to retry it."""

Operation = tuple[str, tuple[int, ...]]
"""A method of every rank and its arguments; the first is the step."""


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
        self._recovered = committed
        self.step = -1
        self.saved = -1
        self.restarts = 0
        self.ranks: list[Member] = []
        self.final = False
        """Set by the run: after the step in hand publish, checkpoint, and begin nothing new."""
        self._failures = self._furthest = 0
        self.written_bytes = 0
        """Of the versions, checkpoints and batches of this life."""
        self._start_at = 0.0
        self._forget()

    def _forget(self) -> None:
        """What the ranks were doing is gone with them."""
        self.step = -1
        self._running: tuple[Operation, list[Any]] | None = None
        self._composing: Any = None
        self._cancelled = False
        self._publishing: Any = None
        self._saving: Any = None
        self._pruning: Any = None

    # -- what the run asks ---------------------------------------------------------------------------------------------
    @property
    def started(self) -> bool:
        return self.step >= 0

    @property
    def reached(self) -> int:
        """The newest step trained, for people: also while the ranks start anew."""
        return max(self.step, self._furthest)

    @property
    def at_work(self) -> bool:
        """The ranks train or copy, or have a committed batch to train."""
        return self.started and (self._running is not None or (self.step < self.committed and not self.final))

    @property
    def settled(self) -> bool:
        """Nothing is running; published and saved up to the newest step."""
        idle = not any((self._running, self._publishing, self._saving, self._pruning))
        return self.started and idle and min(self.saved, self.published) >= self.step

    @property
    def finished(self) -> bool:
        return self.step >= self._recipe.run.steps and self.settled

    def doing(self) -> str:
        """In words, for status and diagnosis."""
        parts = [
            f"{self._running[0][0]} {self._running[0][1][0]}" if self._running else "",
            f"compose {self.committed + 1}" if self._composing else "",
        ]
        parts += ["writing a version" if self._publishing else "", "writing a checkpoint" if self._saving else ""]
        return ", ".join(part for part in parts if part) or ("idle" if self.started else "starting")

    def pending_calls(self) -> list[Any]:
        """Calls whose end is worth waking up for: none that a rank has answered while its peers still work."""
        background = (self._composing, self._publishing, self._saving, self._pruning)
        calls = [*(self._running[1] if self._running else []), *background]
        return [ref for ref in calls if ref is not None and not outcome(ref)[0]]

    @contextmanager
    def commits_held(self) -> Iterator[None]:
        """No batch is committed meanwhile: the composer waits, or is dead."""
        if self._composing is None:
            yield
            return
        lead = self.ranks[0]
        limit = HOLD_TIMEOUT_S + self._recipe.store.retry_s
        if not answered(lead.actor.hold.remote(), who=lead.name, timeout_s=limit):
            yield
            return
        try:
            yield
        finally:
            answered(lead.actor.let_go.remote(), who=lead.name, timeout_s=limit)

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
        self._furthest = max(self._furthest, self.step)
        self._last_cut_at = now
        log.info("trainer ready", extra={"step": self.step, "committed": self.committed, "published": self.published})

    def _advance(self, now: float) -> None:
        lead, last_step = self.ranks[0].actor, self._recipe.run.steps
        if self._composing is None and not self.final and self.committed < min(self.step + 2, last_step):
            self._composing = lead.compose.remote(self.committed + 1)
        if self.final and self._composing is not None and not self._cancelled:
            lead.stop.remote()
            self._cancelled = True
        operation = self._next(now) if self._running is None else None
        if operation is not None:
            name, arguments = operation
            self._running = (operation, [rank.actor.call.remote(name, *arguments) for rank in self.ranks])

    def _next(self, now: float) -> Operation | None:
        """What the ranks do next, None to wait.

        Publishing and cutting come before the next step, which would change what they copy. While an earlier one is
        still being written they are passed over: training goes on, and the next step makes up for it.
        """
        if self._publishing is None and self._publish_due():
            return "publish", (self.step,)
        if self._saving is None and self._pruning is None and self._checkpoint_due(now):
            return "checkpoint", (self.step, self.published)
        if self.step < self.committed and not self.final:
            return "train", (self.step + 1,)
        return None

    def _publish_due(self) -> bool:
        """Every so many batches, and as soon as this life has caught up with the ledger: prompts may wait for a version
        of the life before that turned out to be damaged.
        """
        behind = self.step - self.published
        caught_up = self.published < self._recovered <= self.step
        at_once = self._ending or self.published < 0 or caught_up
        return behind >= (1 if at_once else self._recipe.pacing.publish_interval_batches)

    def _checkpoint_due(self, now: float) -> bool:
        settings, behind = self._recipe.training.checkpoint, self.step - self.saved
        by_time = settings.interval_s is not None and now - self._last_cut_at >= settings.interval_s
        return behind >= (1 if self._ending or by_time else settings.interval_steps)

    @property
    def _ending(self) -> bool:
        return self.final or self.step >= self._recipe.run.steps

    def _collect(self, now: float) -> str | None:
        """Take in what has finished; the cause if something failed."""
        if self._running is not None:
            operation, refs = self._running
            results = [outcome(ref) for ref in refs]
            for rank, (_, _, cause) in zip(self.ranks, results, strict=True):
                if cause:
                    return f"{rank.name} in {operation[0]}: {cause}"
            if all(done for done, _, _ in results):
                self._running = None
                self._completed(operation, results[0][1], now)
        background = {
            "_composing": self._composed,
            "_publishing": self._wrote,
            "_saving": self._cut,
            "_pruning": self._pruned,
        }
        for attribute, done in background.items():
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

    def _completed(self, operation: Operation, answer: Any, now: float) -> None:
        (name, (step, *_)), lead = operation, self.ranks[0].actor
        if name == "train":
            self.step = step
            if step > self._furthest:  # a step trained again after a restart is no progress
                self._furthest, self._failures = step, 0
            self._on_step(answer)
        elif name == "publish":
            self._publishing = lead.wait.remote("published", step, WRITE_TIMEOUT_S)
        elif name == "checkpoint":
            self._last_cut_at = now
            self._saving = lead.wait.remote("saved", step, WRITE_TIMEOUT_S)

    def _composed(self, answer: Mapping[str, Any]) -> None:
        self.committed = max(self.committed, int(answer["number"]))
        self.written_bytes += answer.get("bytes", 0)

    def _wrote(self, answer: Mapping[str, Any]) -> None:
        self.published = int(answer["number"])
        self.written_bytes += answer.get("bytes", 0)
        self._on_published(answer)

    def _cut(self, answer: Mapping[str, Any]) -> None:
        self.saved = int(answer["step"])
        self.written_bytes += answer.get("bytes", 0)
        self._pruning = self.ranks[0].actor.wait.remote("prune")

    def _pruned(self, answer: Mapping[str, Any]) -> None:
        log.info("pruned", extra=dict(answer))

    def _restart(self, cause: str, now: float) -> None:
        for rank in self.ranks:
            rank.kill()
        self._failures += 1
        wait = back_off(self._recipe.supervise, failures=self._failures, who="the trainer", cause=cause)
        log.warning("all ranks restart", extra={"cause": cause, "step": self.step, "wait_s": wait})
        self.ranks, self._start_at = [], now + wait
        self.restarts += 1
        self._forget()
