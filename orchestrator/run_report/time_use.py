"""Where a run's time went, from its timeline: who worked when, what each waited for, and which stage was the bottleneck.

Time here is *active time*: seconds of all lives put end to end, since a run may lie still for days between two of them.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.run_report.reading import number, numbers, seconds

MOST_SLICES = 240
"""Columns of the picture: of a longer timeline only so many lines are looked at."""

Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Between two lines of one life, or what one worker did before it was first heard of."""

    start_s: float
    end_s: float
    shares: Mapping[str, Mapping[str, float]]
    """By worker and phase: share of the time between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """When a life was, on the clock and in active time."""

    began: float
    ended: float
    """Unix seconds; the end is its last line."""
    start_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeUse:
    slices: tuple[Slice, ...]
    wall: Mapping[str, Mapping[str, float]]
    """Seconds by worker and phase; of a role summed under one name, of its mean worker."""
    waited: Mapping[str, float]
    """Seconds by the stage that the loop waited for."""
    lives: tuple[Life, ...]
    published: tuple[float, ...]
    """Active time at which a new version was seen."""
    total_s: float

    def at(self, unix_s: float) -> float:
        """The active time of a moment; between two lives it is the end of the one before."""
        place = 0.0
        for life in self.lives:
            if unix_s >= life.began:
                place = life.start_s + min(unix_s, life.ended) - life.began
        return place


def time_use(timeline: Sequence[Line]) -> TimeUse:
    """No lines: nothing known. Lines without numbers where numbers belong count as absent."""
    slices: list[Slice] = []
    wall: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    waited: defaultdict[str, float] = defaultdict(float)
    lives: list[Life] = []
    published: list[float] = []
    begins_s = 0.0
    step = -(-len(timeline) // MOST_SLICES)
    for lines in _lives(timeline):
        life = _life(lines, begins_s)
        lives.append(life)
        chosen = [{"elapsed_s": 0.0}, *lines[:-1:step], lines[-1]]
        for before, after in itertools.pairwise(chosen):
            growth = _growth(before, after)
            _add(wall, growth)
            slices += _slices(before, after, growth, begins_s)
        for stage, value in numbers(lines[-1], "waited_for").items():
            waited[stage] += value
        published += [
            begins_s + (number(after, "elapsed_s") or 0.0)
            for before, after in itertools.pairwise(lines)
            if (number(after, "published") or -1.0) > (number(before, "published") or -1.0)
        ]
        begins_s += life.ended - life.began
    return TimeUse(
        slices=tuple(slices),
        wall={worker: dict(wall[worker]) for worker in sorted(wall, key=place_of) if wall[worker]},
        waited=dict(waited),
        lives=tuple(lives),
        published=tuple(published),
        total_s=begins_s,
    )


def place_of(worker: str) -> tuple[int, int, str]:
    """Workers in the order of the loop: driver, engines, scorers, ranks, evaluator."""
    role, _, index = worker.partition("-")
    roles = ("driver", "gen", "score", "rank", "eval")
    role = role.rstrip("*")
    return roles.index(role) if role in roles else len(roles), int(index) if index.isdecimal() else 0, worker


def is_wait(phase: str) -> bool:
    return phase.startswith("wait_")


def _lives(timeline: Sequence[Line]) -> list[list[Line]]:
    """Lines by life: another epoch, or a clock that begins anew."""
    found: list[list[Line]] = []
    for line in timeline:
        if number(line, "elapsed_s") is None:
            continue
        before = found[-1][-1] if found else None
        if before is None or _begins_anew(before, line):
            found.append([])
        found[-1].append(line)
    return found


def _begins_anew(before: Line, line: Line) -> bool:
    return line.get("epoch") != before.get("epoch") or (number(line, "elapsed_s") or 0.0) < (
        number(before, "elapsed_s") or 0.0
    )


def _life(lines: Sequence[Line], start_s: float) -> Life:
    elapsed_s = number(lines[-1], "elapsed_s") or 0.0
    ended = next((at for line in reversed(lines) if (at := seconds(line)) is not None), 0.0)
    return Life(began=ended - elapsed_s, ended=ended, start_s=start_s)


def _growth(before: Line, after: Line) -> dict[str, dict[str, float]]:
    """Seconds by worker and phase between two lines; a worker whose clock fell has begun anew."""
    found = {}
    workers = after.get("workers")
    for name in workers if isinstance(workers, Mapping) else ():
        now, then = numbers(after, "workers", name, "wall"), numbers(before, "workers", name, "wall")
        count = number(after, "workers", name, "count") or 1.0
        anew = any(now.get(phase, 0.0) < value for phase, value in then.items())
        found[name] = {phase: (value - (0.0 if anew else then.get(phase, 0.0))) / count for phase, value in now.items()}
    return found


def _add(wall: defaultdict[str, defaultdict[str, float]], growth: Mapping[str, Mapping[str, float]]) -> None:
    for name, phases in growth.items():
        for phase, value in phases.items():
            wall[name][phase] += value


def _slices(before: Line, after: Line, growth: Mapping[str, Mapping[str, float]], begins_s: float) -> Iterator[Slice]:
    """What came between two lines; of a worker that has more to tell, since it had not been heard of, a slice of its own."""
    start, end = number(before, "elapsed_s") or 0.0, number(after, "elapsed_s") or 0.0
    if end <= start:
        return
    shares = {}
    for name, phases in growth.items():
        total = sum(phases.values())
        if total > end - start and not numbers(before, "workers", name, "wall"):
            told = {phase: value / total for phase, value in phases.items() if value > 0}
            yield Slice(start_s=begins_s + max(0.0, end - total), end_s=begins_s + end, shares={name: told})
        else:
            whole = max(end - start, total)
            shares[name] = {phase: value / whole for phase, value in phases.items() if value > 0}
    yield Slice(start_s=begins_s + start, end_s=begins_s + end, shares=shares)
