"""One group's way through the system, as spans: what is printed, and what OpenTelemetry gets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Attribute = str | int | float


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One stretch of the way. Those of a trace follow one another without gaps where all times are known."""

    name: str
    worker: str
    """Whose doing it is, or who is waited for; "" = several."""
    waits: bool
    """The group waits; else somebody works on it."""
    start: float | None
    """Unix seconds; None: an older record does not say when."""
    seconds: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @property
    def end(self) -> float | None:
        return None if self.start is None else self.start + self.seconds

    def as_dict(self) -> dict[str, Any]:
        own = {"name": self.name, "worker": self.worker, "waits": self.waits, "start": self.start, "end": self.end}
        return own | {"seconds": self.seconds, "attributes": dict(self.attributes)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    group_id: str
    sequence: int
    prompt_id: str
    attempt: int
    state: str
    """In words: what became of it, or where it is now."""
    step: int | None
    """That trained it; None: none has."""
    spans: tuple[Span, ...]
    open: bool
    """It is still on its way: the last span lasts until now."""
    notes: tuple[str, ...]
    """What had to be mended or is not known."""

    @property
    def start(self) -> float | None:
        return next((span.start for span in self.spans if span.start is not None), None)

    @property
    def end(self) -> float | None:
        return next((span.end for span in reversed(self.spans) if span.end is not None), None)

    @property
    def seconds(self) -> float:
        """From the first to the last known moment; the sum of what is known where no moment is."""
        if self.start is None or self.end is None:
            return sum(span.seconds for span in self.spans)
        return self.end - self.start

    def as_dict(self) -> dict[str, Any]:
        return {
            "group": self.group_id,
            "sequence": self.sequence,
            "prompt_id": self.prompt_id,
            "attempt": self.attempt,
            "state": self.state,
            "step": self.step,
            "open": self.open,
            "start": self.start,
            "end": self.end,
            "seconds": self.seconds,
            "spans": [span.as_dict() for span in self.spans],
            "notes": list(self.notes),
        }
