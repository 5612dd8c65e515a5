"""What `top` reads of a run's folder: each file from where it was read last, so that a look costs the same on any run."""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.folder import RunFolder
from orchestrator.log_reader.entry import Entry, parse
from orchestrator.log_reader.tail import Tail

_TIMELINE_LINES, _TIMELINE_BYTES = 600, 1 << 20
"""Of the timeline: 20 min of a young run, more than an hour and a half of an old one."""
_STEPS, _STEPS_BYTES = 1000, 1 << 21
"""Of metrics.jsonl: more than any terminal has columns."""
_WARNINGS, _LOG_BYTES = 50, 1 << 18
_QUIET = ("debug", "info")


@dataclass(kw_only=True)
class Seen:
    """All that a frame is made of; `at` is when it was read. What is not there is empty."""

    at: float
    """Unix seconds."""
    run: str
    alive: bool
    """Its driver, as far as its lock tells here."""
    other_host: str
    """Where the last driver was, if that is not this machine."""
    status: Mapping[str, Any]
    timeline: deque[dict[str, Any]] = field(default_factory=deque)
    """Lines with `at`, their time in Unix seconds; of the newest life alone."""
    steps: deque[dict[str, Any]] = field(default_factory=deque)
    """Of metrics.jsonl, with `at`, ascending by step: what was trained again after a restart stands once."""
    evaluations: deque[dict[str, Any]] = field(default_factory=deque)
    warnings: deque[Entry] = field(default_factory=deque)
    """Of the driver's log, the newest last."""


class Sources:
    """look(now) -> Seen. The same object each time, with what is new in it."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._timeline = Tail(folder.timeline, last_bytes=_TIMELINE_BYTES)
        self._steps = Tail(folder.metrics, last_bytes=_STEPS_BYTES)
        self._evaluations = Tail(folder.evaluations)
        self._log = Tail(folder.logs / "driver.jsonl", last_bytes=_LOG_BYTES)
        self._seen = Seen(
            at=0.0,
            run=folder.run_id,
            alive=False,
            other_host="",
            status={},
            timeline=deque(maxlen=_TIMELINE_LINES),
            steps=deque(maxlen=_STEPS),
            evaluations=deque(maxlen=_STEPS),
            warnings=deque(maxlen=_WARNINGS),
        )

    def look(self, now: float) -> Seen:
        """ValueError: the run's status is no JSON."""
        seen = self._seen
        seen.at = now
        seen.alive = self._folder.driver_pid() is not None
        seen.other_host = self._folder.other_host()
        seen.status = self._folder.read_status()
        for line in _objects(self._timeline, key="elapsed_s"):
            if seen.timeline and seen.timeline[-1].get("epoch") != line.get("epoch"):
                seen.timeline.clear()
            seen.timeline.append(line)
        for line in _objects(self._steps, key="step"):
            while seen.steps and seen.steps[-1]["step"] >= line["step"]:
                seen.steps.pop()
            seen.steps.append(line)
        seen.evaluations.extend(_objects(self._evaluations, key="step"))
        entries = (
            parse(text, worker="driver", before=0.0) for text in self._log.new() if '"level": "info"' not in text
        )
        seen.warnings.extend(entry for entry in entries if entry.level not in _QUIET and "damaged" not in entry.fields)
        return seen


def _objects(tail: Tail, *, key: str) -> list[dict[str, Any]]:
    """New lines that are whole and have a number under `key`, with `at`; a damaged one is left out: the view goes on
    without it."""
    found = []
    for text in tail.new():
        try:
            line = json.loads(text)
            line["at"] = datetime.fromisoformat(line["time"]).timestamp()
            float(line[key])
        except (ValueError, KeyError, TypeError):
            continue
        found.append(line)
    return found
