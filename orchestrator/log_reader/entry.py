"""A line of a log, read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

LEVELS = ("debug", "info", "warning", "error", "critical")
"""Ascending, as logging names them."""
_OWN = ("time", "level", "logger", "run", "worker", "event", "traceback")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    at: float
    """Unix seconds."""
    level: str
    """One of LEVELS."""
    worker: str
    event: str
    fields: Mapping[str, Any]
    """All that the line holds, these four included."""

    @property
    def role(self) -> str:
        """driver, gen, score, rank, eval, …"""
        return self.worker.partition("-")[0]

    @property
    def extra(self) -> dict[str, Any]:
        """What the call said beside its event, without the traceback."""
        return {key: value for key, value in self.fields.items() if key not in _OWN}

    @property
    def groups(self) -> tuple[int, ...]:
        """Sequences of the groups that it is about."""
        several = self.fields.get("groups", ())
        one = [self.fields["group"]] if "group" in self.fields else []
        return tuple(found for found in (*one, *(several if isinstance(several, list) else ())) if type(found) is int)


def parse(text: str, *, worker: str, before: float) -> Entry:
    """A line of `worker`'s file. What is no line of a log (half of one, say) is a warning with its text as the event, at
    the time of the line before it."""
    try:
        fields = json.loads(text)
        return Entry(
            at=datetime.fromisoformat(fields["time"]).timestamp(),
            level=fields["level"] if fields["level"] in LEVELS else "warning",
            worker=str(fields["worker"]),
            event=str(fields["event"]),
            fields=fields,
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        damaged = {"level": "warning", "worker": worker, "event": text, "damaged": True}
        return Entry(at=before, level="warning", worker=worker, event=text, fields=damaged)
