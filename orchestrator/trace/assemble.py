"""From what is known of a group to spans that follow one another. No file, no server and no clock in here.

Every process stamps by the clock of its machine. What one process did lies together: its durations are by a clock that
nobody sets, and its block is moved as a whole where another machine's times say that it cannot have been there (begun
before it was handed over, or ended after it was handed on). What was moved, and how far, is noted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experience.schema import Production
from orchestrator.trace.span import Attribute, Span, Trace

ROUNDING_S = 0.01
"""Logs and ids of entries have milliseconds, and a line is written a little later than what it says: no skew of clocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What one worker did with the group."""

    production: Production
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What the trainer did with its batch; times are Unix seconds, None where no log says so."""

    step: int
    committed_at: float | None = None
    trained_at: float | None = None
    trained_s: float = 0.0
    published_at: float | None = None
    version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """All that is known of one group."""

    group_id: str
    sequence: int
    prompt_id: str
    attempt: int
    state: str
    issued_at: float | None = None
    """Where no record says so."""
    generated: Made | None = None
    scored: Made | None = None
    training: Training | None = None
    now_in: str = ""
    """Name of the span that lasts until now; "" = it is at its end."""
    now_with: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)


Part = tuple[str, bool, float, Mapping[str, Attribute]]
"""name, waits, seconds, attributes"""


def assemble(story: Story, *, now: float) -> Trace:
    way = _Way(story)
    generated, scored, training = story.generated, story.scored, story.training
    if generated is not None:
        until = scored.production.queued_at or None if scored else None
        way.made("generation", "generated", generated, "waited for version or room", not_after=until)
    if scored is not None:
        committed_at = training.committed_at if training else None
        way.made("scoring", "scored", scored, "waited for its pass", not_after=committed_at)
    if training is not None:
        way.trained(training)
    if story.now_in:
        way.until_now(story.now_in, story.now_with, now)
    return Trace(
        group_id=story.group_id,
        sequence=story.sequence,
        prompt_id=story.prompt_id,
        attempt=story.attempt,
        state=story.state,
        step=training.step if training else None,
        spans=tuple(way.spans),
        open=bool(story.now_in),
        notes=(*story.notes, *way.notes),
    )


class _Way:
    """Puts one block behind the other; `at` is how far it has come, None while that is not known."""

    def __init__(self, story: Story) -> None:
        first = story.generated.production.queued_at if story.generated else 0.0
        self.at: float | None = first or story.issued_at
        self.spans: list[Span] = []
        self.notes: list[str] = []
        if self.at is None and (story.generated or story.training):
            self.notes.append(
                "this record is older than the stamps of when a group was handed on: durations alone are known"
            )

    def made(self, stage: str, done: str, made: Made, held_for: str, *, not_after: float | None) -> None:
        """A worker's part: it takes the group, holds it, works on it."""
        production, worker = made.production, worker_of(made.production)
        attributes = dict(made.attributes)
        if production.deliveries > 1:
            attributes["delivery"] = production.deliveries
        parts: list[Part] = [(done, False, production.worked_s, attributes)]
        if production.waited_s >= 0.0005:
            parts.insert(0, (held_for, True, production.waited_s, {}))
        self._block(f"waited for {stage}", worker, parts, begin=production.leased_at or None, not_after=not_after)

    def trained(self, training: Training) -> None:
        parts: list[Part] = []
        begin, step = training.committed_at, {"step": training.step}
        if training.trained_at is not None:
            begun = training.trained_at - training.trained_s
            begin = begun if begin is None else begin
            if begun > begin:
                parts.append(("waited for the trainer", True, begun - begin, {}))
            parts.append(("trained", False, training.trained_at - max(begun, begin), step))
        self._block("waited for its batch", "rank-0", parts, begin=begin, not_after=training.published_at)
        if training.published_at is not None:
            end = self._not_before(training.published_at, "driver")
            if self.at is not None:
                self._add("version published", "driver", False, end - self.at, {"version": training.version})

    def until_now(self, name: str, worker: str, now: float) -> None:
        if self.at is not None:
            end = self._not_before(now, "this machine")
            self._add(name, worker, name.startswith("wait"), end - self.at, {})

    def _block(
        self, wait: str, worker: str, parts: Sequence[Part], *, begin: float | None, not_after: float | None
    ) -> None:
        """A wait up to `begin`, then the parts. Moved as little as makes it begin after what came before it and, where it
        then fits, end by `not_after`."""
        if begin is None:
            self.at = None
        else:
            length = sum(seconds for _, _, seconds, _ in parts)
            early = 0.0 if not_after is None else max(0.0, begin + length - not_after)
            begin = self._not_before(begin - early, worker, moved=-early)
            if self.at is not None:
                self._add(wait, worker, True, begin - self.at, {})
            self.at = begin
        for name, waits, seconds, attributes in parts:
            self._add(name, worker, waits, seconds, attributes)

    def _not_before(self, moment: float, worker: str, *, moved: float = 0.0) -> float:
        """`moment`, or how far the way has come where that is later; says so if clocks must differ."""
        found = moment if self.at is None else max(moment, self.at)
        moved += found - moment
        if abs(moved) > ROUNDING_S:
            ahead = "behind" if moved > 0 else "ahead of"
            how = "later" if moved > 0 else "earlier"
            self.notes.append(
                f"the clock of {worker} is at least {abs(moved):.3f} s {ahead} those of its neighbours: "
                f"what it did is shown that much {how}"
            )
        return found

    def _add(self, name: str, worker: str, waits: bool, seconds: float, attributes: Mapping[str, Attribute]) -> None:
        self.spans.append(
            Span(name=name, worker=worker, waits=waits, start=self.at, seconds=seconds, attributes=attributes)
        )
        if self.at is not None:
            self.at += seconds


def worker_of(production: Production) -> str:
    """gen-0 of gen-0.e1.2, which names one life of it."""
    return production.worker.partition(".")[0]
