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

NEWS = 0.5
"""Of the time since its last report, that a worker's clock must have grown by: below it, it is an old report seen again."""

Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """What one worker did between two of its reports."""

    worker: str
    start_s: float
    end_s: float
    shares: Mapping[str, float]
    """By phase; they add up to 1."""


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
        for piece, seconds_by_phase in _pieces([*lines[:-1:step], lines[-1]], begins_s):
            slices.append(piece)
            for phase, value in seconds_by_phase.items():
                wall[piece.worker][phase] += value
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


def _pieces(lines: Sequence[Line], begins_s: float) -> Iterator[tuple[Slice, Mapping[str, float]]]:
    """Of each worker, by its reports: a slice, and the seconds that it stands for."""
    names = {name: None for line in lines for name in _workers(line)}
    for name in names:
        told: tuple[float, Mapping[str, float]] = (0.0, {})
        readings = [(number(line, "elapsed_s") or 0.0, _wall(line, name)) for line in lines if name in _workers(line)]
        for place, (at_s, wall) in enumerate(readings):
            growth, anew = _growth(told[1], wall)
            total = sum(growth.values())
            stale = total < NEWS * (at_s - told[0]) and bool(told[1]) and not anew
            if total <= 0 or (stale and place < len(readings) - 1):
                continue
            start_s = told[0] if told[1] and not anew else max(told[0], at_s - total)
            shares = {phase: value / total for phase, value in growth.items() if value > 0}
            yield Slice(worker=name, start_s=begins_s + start_s, end_s=begins_s + at_s, shares=shares), growth
            told = (at_s, wall)


def _workers(line: Line) -> Mapping[str, Any]:
    workers = line.get("workers")
    return workers if isinstance(workers, Mapping) else {}


def _wall(line: Line, name: str) -> dict[str, float]:
    """Seconds by phase; of many workers under one name, of their mean."""
    count = number(line, "workers", name, "count") or 1.0
    return {phase: value / count for phase, value in numbers(line, "workers", name, "wall").items()}


def _growth(then: Mapping[str, float], now: Mapping[str, float]) -> tuple[dict[str, float], bool]:
    """By phase; and whether the clock fell, since the worker has begun anew."""
    anew = any(now.get(phase, 0.0) < value for phase, value in then.items())
    return {phase: value - (0.0 if anew else then.get(phase, 0.0)) for phase, value in now.items()}, anew
