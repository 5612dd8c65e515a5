"""What happened between two lines of a timeline. Pure functions: lines in, rates and shares out."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.waited_for import STAGES, Stage, bottleneck

WINDOW_S = 30.0
"""Long enough for a step of a small run and several lines of an old one, short enough to follow what changes."""

Line = Mapping[str, Any]


def window(lines: Sequence[Line], *, length_s: float = WINDOW_S) -> list[Line]:
    """The last lines of one life: from the newest one that is `length_s` older than the last, or else the first."""
    if not lines:
        return []
    last = lines[-1]
    same = [line for line in lines if line.get("epoch") == last.get("epoch")]
    before = [line for line in same if line["elapsed_s"] <= last["elapsed_s"] - length_s]
    return same[len(before) - 1 if before else 0 :]


def seconds(lines: Sequence[Line]) -> float:
    return float(lines[-1]["elapsed_s"] - lines[0]["elapsed_s"]) if lines else 0.0


def growth(values: Sequence[float]) -> float:
    """Of a counter that begins anew with each life of a worker."""
    return sum(new - old if new >= old else new for old, new in itertools.pairwise(values))


def rate(lines: Sequence[Line], role: str, counter: str) -> float | None:
    """A second, all workers of a role together; None: nothing to go by."""
    length = seconds(lines)
    if length <= 0:
        return None
    names = {name for line in lines for name in line.get("workers", {}) if _is(name, role)}
    found = 0.0
    for name in names:
        found += growth(
            [line["workers"][name][counter] for line in lines if counter in line.get("workers", {}).get(name, {})]
        )
    return found / length


def phases(lines: Sequence[Line], name: str) -> dict[str, float]:
    """Seconds by phase of one worker."""
    walls = [wall for line in lines if (wall := line.get("workers", {}).get(name, {}).get("wall"))]
    names = dict.fromkeys(phase for wall in walls for phase in wall)
    return {phase: growth([wall.get(phase, 0.0) for wall in walls]) for phase in names}


def busy(found: Mapping[str, float]) -> float | None:
    """Share of the time that is not waiting; None: nothing to go by."""
    total = sum(found.values())
    waited = sum(spent for phase, spent in found.items() if phase.startswith("wait_"))
    return 1 - waited / total if total > 0 else None


def busy_of_role(lines: Sequence[Line], role: str) -> float | None:
    """Mean over the workers of a role."""
    names = lines[-1].get("workers", {}) if lines else {}
    shares = [share for name in names if _is(name, role) and (share := busy(phases(lines, name))) is not None]
    return sum(shares) / len(shares) if shares else None


def waited(lines: Sequence[Line]) -> dict[str, float]:
    """Seconds by the stage that was waited for."""
    return {stage: growth([line.get("waited_for", {}).get(stage, 0.0) for line in lines]) for stage in STAGES}


def since(lines: Sequence[Line], stage: Stage, *, apart: int) -> float:
    """For how many seconds up to the last line this stage has been the bottleneck of the `apart` intervals before each."""
    begun = len(lines) - 1
    while begun > 0 and bottleneck(waited([lines[max(0, begun - 1 - apart)], lines[begun - 1]])) in (stage, None):
        begun -= 1
    return seconds(lines[begun:])


def last_change(lines: Sequence[Line], key: str) -> float | None:
    """Unix seconds at which a value was first seen as it is in the last line; None: it has always been so."""
    for old, new in zip(reversed(lines[:-1]), reversed(lines[1:]), strict=True):
        if old.get(key) != new.get(key):
            return float(new["at"])
    return None


def _is(name: str, role: str) -> bool:
    """gen-0, or gen* where many are summed."""
    return name == f"{role}*" or name.partition("-")[0] == role
