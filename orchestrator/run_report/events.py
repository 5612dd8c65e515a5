"""What befell a run, from the logs of its processes: only what our own code has said, in plain words."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from orchestrator.run_report.reading import seconds

Kind = Literal["life", "restart", "fault", "refused", "quarantine", "warning"]

OURS = ("orchestrator", "gen_cluster", "score_cluster", "train_cluster", "experience", "weightstore")
"""Loggers; what libraries warn of stays in the logs."""
LOG_BYTES, LOGS_BYTES = 16 * 1024**2, 64 * 1024**2
"""Read of each log, from its end, and at most of all together."""
SHOWN_CHARACTERS = 240
"""Of what an event says of itself."""

BEGINS, ENDS = "a life begins", "the life ends"
_KINDS: Mapping[str, tuple[Kind, str]] = {
    "life begins": ("life", BEGINS),
    "life ends": ("life", ENDS),
    "stop requested": ("life", "a stop was asked for"),
    "worker restarts": ("restart", "restarted"),
    "all ranks restart": ("restart", "all ranks restarted from the newest checkpoint"),
    "server died": ("fault", "the Redis server died and was started again"),
    "server not started again": ("fault", "the Redis server could not be started again"),
    "server lost acknowledged writes": ("fault", "the Redis server had lost acknowledged writes"),
    "the buffer has lost groups": ("fault", "the buffer had lost groups"),
    "groups were lost": ("fault", "groups were lost and issued anew"),
    "worker failed": ("fault", "failed"),
    "run failed": ("fault", "the run failed"),
    "driver failed": ("fault", "the driver failed"),
    "worker hangs, its leases run out": ("fault", "hung; its leases ran out"),
    "group_quarantined": ("quarantine", "a group was quarantined"),
    "version refused, an older or the next one will do": ("refused", "refused a version of the weights"),
    "version refused, the one before serves on": ("refused", "refused a version of the weights"),
    "version not loaded, will try again": ("refused", "could not load a version"),
    "version passed over": ("refused", "passed over a version"),
    "version not evaluated": ("refused", "did not evaluate a version"),
    "buffer_retry": ("fault", "the Redis server did not answer"),
    "group given back": ("fault", "could not score a group and gave it back"),
    "group given up": ("fault", "gave up a group"),
    "suspect runs alone": ("warning", "ran a group alone whose worker had died or failed"),
    "groups dropped": ("fault", "groups were dropped since they held up a batch"),
}
_FACTS = ("member", "cause", "error", "reason", "why", "state", "step", "epoch", "result", "stage", "version")
"""Of a line, what may be told: nothing else of it is looked at."""
_SECRET = re.compile(r"://[^/\s@]*@")
"""User and password of an address."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One, or many alike of one worker."""

    time_s: float
    """Unix, of the first."""
    last_s: float
    count: int
    kind: Kind
    worker: str
    """Whom it befell."""
    what: str
    detail: str
    """Of the last of them."""


_DEATH = Event(
    time_s=0.0,
    last_s=0.0,
    count=1,
    kind="fault",
    worker="driver",
    what="the driver was killed",
    detail="it said no last word",
)


def read_events(folder: Path) -> list[Event]:
    """By time. Of many alike there is one: a server that is away is asked a hundred times."""
    found: dict[tuple[str, str], Event] = {}
    paths = sorted(folder.glob("*.jsonl"))
    budget_bytes = min(LOG_BYTES, LOGS_BYTES // max(1, len(paths)))
    for path in paths:
        for line in _lines(path, budget_bytes):
            event = _event(line)
            if event is None:
                continue
            key = (event.worker, event.what) if event.kind not in ("life", "restart") else (str(len(found)), "")
            before = found.get(key)
            found[key] = event if before is None else _joined(before, event)
    return sorted(found.values(), key=lambda event: event.time_s)


def deaths(events: Sequence[Event], *, last_signs: Sequence[float], dead: bool) -> list[Event]:
    """What a killed driver could not say: a life that begins without the one before having ended, or, if the run is `dead`,
    the last one. Each at its last sign, of these Unix seconds."""
    found, begun = [], None
    ends = [*(event for event in events if event.kind == "life"), None]
    for event in ends:
        over = event is None and dead
        if begun is not None and (over or (event is not None and event.what == BEGINS)):
            limit = event.time_s if event is not None else math.inf
            at = max((sign for sign in last_signs if begun <= sign < limit), default=begun)
            found.append(replace(_DEATH, time_s=at, last_s=at))
        if event is not None and event.what in (BEGINS, ENDS):
            begun = event.time_s if event.what == BEGINS else None
    return found


def clean(text: str) -> str:
    """One short line without what an address may carry in secret."""
    plain = _SECRET.sub("://…@", " ".join(text.split()))
    return plain if len(plain) <= SHOWN_CHARACTERS else f"{plain[: SHOWN_CHARACTERS - 1]}…"


def _lines(path: Path, budget_bytes: int) -> Iterable[dict[str, Any]]:
    """Of these only what can be an event: most lines of a long log are about single batches."""
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - budget_bytes)
        file.seek(start)
        for line in file.read().splitlines()[1 if start else 0 :]:
            if b'"level": "info"' in line and b'"life ' not in line and b'"stop requested"' not in line:
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):  # torn by a death: the next line is whole
                continue
            if isinstance(found, dict):
                yield found


def _event(line: Mapping[str, Any]) -> Event | None:
    said, logger, at = str(line.get("event", "")), str(line.get("logger", "")), seconds(line)
    if at is None or logger.partition(".")[0] not in OURS:
        return None
    known = _KINDS.get(said)
    if known is None and line.get("level") == "info":
        return None
    kind, what = known or ("warning", clean(said))
    worker = str(line.get("member") or line.get("worker") or "")
    if said == "all ranks restart":
        worker = "ranks"
    return Event(time_s=at, last_s=at, count=1, kind=kind, worker=clean(worker), what=what, detail=_detail(line))


def _detail(line: Mapping[str, Any]) -> str:
    facts = [
        (name, line[name]) for name in _FACTS if isinstance(line.get(name), str | int | float) and line[name] != ""
    ]
    words = [str(value) if isinstance(value, str) and name != "version" else f"{name} {value}" for name, value in facts]
    return clean(", ".join(word for (name, _), word in zip(facts, words, strict=True) if name != "member"))


def _joined(first: Event, second: Event) -> Event:
    older, newer = sorted((first, second), key=lambda event: event.time_s)
    return replace(newer, time_s=older.time_s, last_s=max(older.last_s, newer.last_s), count=first.count + second.count)
