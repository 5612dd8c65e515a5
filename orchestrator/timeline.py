"""timeline.jsonl: what a run's stages held, waited for and did, a line every few seconds, for `top` and the report."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from orchestrator.folder import RunFolder

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""Between two lines while a life is young and people watch: 300 lines of some 2 kB."""
LATER_INTERVAL_S = 10.0
"""And from then on: some 17 MB a day."""
YOUNG_S = 600.0

MOST_OF_A_ROLE = 16
"""Workers that have an entry each; of more there is the sum."""

_SUMMED = ("tokens", "groups")
_WALL = "wall."
"""Before the name of a phase, among the counters of a worker."""


class Timeline:
    """Appends lines, each whole or not at all. What it cannot write is logged, and missing: it never ends a run."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._next_s = 0.0

    def due(self, elapsed_s: float) -> bool:
        """Of this life."""
        return elapsed_s >= self._next_s

    def add(self, line: Mapping[str, Any]) -> None:
        """A line as docs/metrics.md describes it; `elapsed_s` of it says when the next is due."""
        elapsed_s = line["elapsed_s"]
        self._next_s = elapsed_s + (INTERVAL_S if elapsed_s < YOUNG_S else LATER_INTERVAL_S)
        try:
            self._folder.append(self._folder.timeline, json.dumps(line, separators=(",", ":")))
        except OSError as error:
            log.warning("timeline not written", extra={"error": str(error)})


class Workers:
    """of(statuses) -> the `workers` of a line: of each its wall time and counters, or one entry `role*` for a role that has
    many, of one life of the driver."""

    def __init__(self) -> None:
        self._crowds: dict[str, _Crowd] = {}

    def of(self, statuses: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """`statuses`: by name, as the workers' heartbeats brought them."""
        roles: dict[str, dict[str, dict[str, Any]]] = {}
        for name, status in statuses.items():
            roles.setdefault(name.partition("-")[0], {})[name] = _entry(status)
        found: dict[str, dict[str, Any]] = {}
        for role, entries in roles.items():
            if len(entries) <= MOST_OF_A_ROLE:
                found |= entries
            else:
                found[f"{role}*"] = self._crowds.setdefault(role, _Crowd()).summed(entries)
        return found


class _Crowd:
    """A role's workers as one, whose counters never fall: those of a worker that died stay in them. Without that, readers
    would take the death of one for a new life of all, and count everything once more."""

    def __init__(self) -> None:
        self._past: dict[str, float] = {}
        """Of lives that are over."""
        self._last: dict[str, dict[str, float]] = {}
        """Of the others, by worker."""

    def summed(self, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        for name in self._last.keys() | entries.keys():
            now, last = _counters(entries.get(name, {})), self._last.get(name, {})
            if any(now.get(key, 0.0) < value for key, value in last.items()):
                _add(last, to=self._past)
            self._last[name] = now
        sums = dict(self._past)
        for name in entries:
            _add(self._last[name], to=sums)
        wall = {key.removeprefix(_WALL): round(value, 3) for key, value in sums.items() if key.startswith(_WALL)}
        return {"count": len(entries), "wall": wall, **{key: sums[key] for key in _SUMMED if key in sums}}


def _counters(entry: Mapping[str, Any]) -> dict[str, float]:
    wall = {f"{_WALL}{phase}": seconds for phase, seconds in entry.get("wall", {}).items()}
    return wall | {key: entry[key] for key in _SUMMED if key in entry}


def _add(counters: Mapping[str, float], *, to: dict[str, float]) -> None:
    for key, value in counters.items():
        to[key] = to.get(key, 0) + value


def _entry(status: Mapping[str, Any]) -> dict[str, Any]:
    named = {"tokens": status.get("tokens_done"), "groups": status.get("groups_done", status.get("groups"))}
    kept = {key: status[key] for key in ("state", "served", "wall") if key in status}
    return kept | {key: value for key, value in named.items() if value is not None}
