"""What `top` shows, as figures: the picture of a run at one moment. No terminal in here; `--json` prints it as it is."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from statistics import fmean
from typing import Any

from orchestrator.config import Recipe
from orchestrator.folder import LIVING, state_of
from orchestrator.top import window as windows
from orchestrator.top.sources import Seen
from orchestrator.top.words import sentence
from orchestrator.waited_for import bottleneck

PACE_STEPS = 20
"""As many as the bar of `headrace run` goes by."""
RECENT_S = 600.0
"""Warnings that are shown; older ones are in the logs."""
SERIES = 60
"""Values of each curve in --json; a frame has as many as it has columns."""

CURVES = {
    "reward": "reward_mean",
    "kl": "kl_per_response",
    "length": "response_length_mean",
    "entropy": "entropy",
}
"""By name: the key in metrics.jsonl. The win rate comes from evaluations.jsonl."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bottleneck:
    stage: str
    """One of waited_for.STAGES; "" = there is nothing to go by."""
    since_s: float
    shares: Mapping[str, float]
    """Of the window's time, or of the last life's where that is over, by the stage that was waited for."""
    shares_s: float
    """Over so many seconds."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    name: str
    state: str
    busy: float | None
    served: str
    """Version, on generation workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    workers: int
    running: int
    busy: float | None
    """Share of the window in which its workers worked; None: not known."""
    rates: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    groups: int
    oldest_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    last: float | None
    series: Sequence[tuple[int, float]]
    """(step, value), ascending by step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Warned:
    at: float
    """Unix seconds."""
    level: str
    event: str
    said: str


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    run: str
    state: str
    """As `headrace status` has it; `dead`: its driver was killed."""
    cause: str
    alive: bool
    silent_s: float | None
    """Since its last word; None: it has said none."""
    epoch: int
    up_s: float
    """Of this life."""
    step: int
    steps: int
    step_s: float | None
    """Seconds a step, over the last ones."""
    eta_s: float | None
    window_s: float
    """How far rates and shares look back."""
    bottleneck: Bottleneck
    clusters: Mapping[str, Cluster]
    """generation, scoring, training"""
    workers: Sequence[Worker]
    trainer: str
    """What it is doing, in words."""
    streams: Mapping[str, Stream]
    live: int
    capacity: int
    committed: int
    published: int
    """Version; -1 = none yet."""
    published_s: float | None
    """Seconds since it is the newest."""
    saved: int
    served: Mapping[str, str]
    """Version by generation worker."""
    redis: Mapping[str, Any]
    written_bytes: int
    staleness: Mapping[str, float]
    """mean and max of the last step, allowed"""
    learning: Mapping[str, Curve]
    evaluation: str
    """What the evaluator is doing; "" without one."""
    restarts: Mapping[str, int]
    warnings: Sequence[Warned]
    """Of the last minutes, the newest last."""

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        for curve in found["learning"].values():
            curve["series"] = [list(point) for point in binned(curve["series"], SERIES)]
        return found


def view(seen: Seen, recipe: Recipe) -> View:
    status, lines, now = seen.status, list(seen.timeline), seen.at
    recent = windows.window(lines)
    newest: Mapping[str, Any] = lines[-1] if lines else {}
    state = str(status.get("state", "new"))
    state = state if seen.other_host and not seen.alive else state_of(status, alive=seen.alive)
    steps = int(status.get("steps", recipe.run.steps))
    step = max(int(status.get("step", 0)), 0)
    pace = step_seconds(list(seen.steps))
    last: Mapping[str, Any] = status.get("last_step") or (seen.steps[-1] if seen.steps else {})
    workers = _workers(status, newest, recent)
    updated = _unix(status.get("updated"))
    changed = windows.last_change(lines, "published")
    clusters = _clusters(recipe, workers, recent, pace, last)
    streams = _streams(status, newest)
    going = state in LIVING
    return View(
        run=seen.run,
        state=state,
        cause=str(status.get("cause", "")),
        alive=seen.alive,
        silent_s=None if updated is None else max(0.0, now - updated),
        epoch=int(status.get("epoch", 0)),
        up_s=_up(newest, now, going=going),
        step=step,
        steps=steps,
        step_s=pace,
        eta_s=pace * (steps - step) if pace is not None and going and step < steps else None,
        window_s=windows.seconds(recent),
        bottleneck=_bottleneck(status, lines, recent, state=state, clusters=clusters, streams=streams, workers=workers),
        clusters=clusters,
        workers=workers,
        trainer=str(status.get("trainer", "")),
        streams=streams,
        live=int(status.get("live", 0)),
        capacity=int(newest.get("capacity", 0)),
        committed=int(status.get("committed", 0)),
        published=int(status.get("published", -1)),
        published_s=None if changed is None else max(0.0, (now if going else float(newest["at"])) - changed),
        saved=int(status.get("saved", -1)),
        served={worker.name: worker.served for worker in workers if worker.served},
        redis=status.get("redis") or newest.get("redis") or {},
        written_bytes=int(status.get("written_bytes", 0)),
        staleness=_staleness(last, recipe),
        learning=_learning(seen),
        evaluation=str(status.get("evaluation", {}).get("doing", "")),
        restarts=dict(status.get("restarts", {})),
        warnings=_warnings(seen, until=now if going else updated or now),
    )


def step_seconds(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """Over the last steps of the newest life; None before its second."""
    same = [line for line in steps[-PACE_STEPS - 1 :] if line.get("epoch") == steps[-1].get("epoch")]
    if len(same) < 2 or same[-1]["step"] == same[0]["step"]:
        return None
    return float((same[-1]["at"] - same[0]["at"]) / (same[-1]["step"] - same[0]["step"]))


def binned(series: Sequence[tuple[int, float]], count: int) -> list[tuple[int, float]]:
    """At most `count` points: the last step of each bin, the mean of its values."""
    if len(series) <= count:
        return list(series)
    edges = [round(index * len(series) / count) for index in range(count + 1)]
    parts = [series[first:end] for first, end in itertools.pairwise(edges)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in parts]


def _workers(status: Mapping[str, Any], newest: Mapping[str, Any], recent: Sequence[Mapping[str, Any]]) -> list[Worker]:
    """Of a run that is over, as the timeline saw them last."""
    told: Mapping[str, Any] = status.get("workers") or {
        name: said for name, said in newest.get("workers", {}).items() if name != "driver"
    }
    return [
        Worker(
            name=name,
            state=str(said.get("state", "starting")),
            busy=windows.busy(windows.phases(recent, name)),
            served=str(said.get("served", "")),
        )
        for name, said in told.items()
    ]


def _clusters(
    recipe: Recipe,
    workers: Sequence[Worker],
    recent: Sequence[Mapping[str, Any]],
    pace: float | None,
    last: Mapping[str, Any],
) -> dict[str, Cluster]:
    scored = windows.rate(recent, "score", "groups")
    sequences = last.get("sequences")
    rates: dict[str, dict[str, float | None]] = {
        "gen": {
            "tokens_per_s": windows.rate(recent, "gen", "tokens"),
            "groups_per_s": windows.rate(recent, "gen", "groups"),
        },
        "score": {
            "groups_per_s": scored,
            "samples_per_s": None if scored is None else scored * recipe.generation.group_size,
        },
        "rank": {
            "steps_per_min": 60 / pace if pace else None,
            "samples_per_s": sequences / pace if pace and sequences else None,
        },
    }
    names = {"gen": "generation", "score": "scoring", "rank": "training"}
    wanted = {"gen": recipe.generation.workers, "score": recipe.scoring.workers, "rank": recipe.training.ranks}
    return {
        names[role]: Cluster(
            workers=wanted[role],
            running=sum(worker.name.partition("-")[0] == role and worker.state not in _ABSENT for worker in workers),
            busy=windows.busy_of_role(recent, role),
            rates=rates[role],
        )
        for role in names
    }


_ABSENT = ("starting", "failed", "stopped")
"""States of a worker that takes no part (see orchestrator.actors)."""


def _streams(status: Mapping[str, Any], newest: Mapping[str, Any]) -> dict[str, Stream]:
    depths, ages = (
        status.get("streams") or newest.get("streams") or {},
        status.get("oldest_s") or newest.get("oldest_s") or {},
    )
    names = ("prompts", "completions", "experience", "quarantine")
    return {name: Stream(groups=int(depths.get(name, 0)), oldest_s=float(ages.get(name, 0.0))) for name in names}


def _bottleneck(
    status: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    recent: Sequence[Mapping[str, Any]],
    *,
    state: str,
    clusters: Mapping[str, Cluster],
    streams: Mapping[str, Stream],
    workers: Sequence[Worker],
) -> Bottleneck:
    going = state in LIVING
    spent = windows.waited(recent) if going else dict(lines[-1].get("waited_for", {})) if lines else {}
    total = sum(spent.values())
    stage = bottleneck(spent)
    since_s = windows.since(lines, stage, apart=max(1, len(recent) - 1)) if stage and going else 0.0
    absent = [worker.name for worker in workers if worker.state in _ABSENT]
    waits = windows.busy_of_role(recent, "rank")
    text = sentence(
        stage or "",
        since_s=since_s,
        state=state,
        cause=str(status.get("cause", "")),
        depths={name: stream.groups for name, stream in streams.items()},
        trainer_waits=None if waits is None else 1 - waits,
        trainer=str(status.get("trainer", "")),
        absent=absent,
        workers=len(workers),
    )
    shares = {name: seconds / total for name, seconds in spent.items()} if total > 0 else {}
    return Bottleneck(stage=stage or "", since_s=since_s, shares=shares, shares_s=total, text=text)


def _staleness(last: Mapping[str, Any], recipe: Recipe) -> dict[str, float]:
    found = {"allowed": float(recipe.pacing.max_staleness)}
    named = {"mean": last.get("staleness_mean"), "max": last.get("staleness_max")}
    return found | {key: float(value) for key, value in named.items() if value is not None}


def _learning(seen: Seen) -> dict[str, Curve]:
    found = {name: _curve(seen.steps, key) for name, key in CURVES.items()}
    return found | {"win_rate": _curve(seen.evaluations, "win_rate")}


def _curve(lines: Sequence[Mapping[str, Any]] | Any, key: str) -> Curve:
    series = [
        (int(line["step"]), float(line[key]))
        for line in lines
        if isinstance(line.get(key), int | float) and "step" in line
    ]
    return Curve(last=series[-1][1] if series else None, series=series)


def _warnings(seen: Seen, *, until: float) -> list[Warned]:
    return [
        Warned(
            at=entry.at,
            level=entry.level,
            event=entry.event,
            said="  ".join(f"{key}={value}" for key, value in entry.extra.items()),
        )
        for entry in seen.warnings
        if entry.at >= until - RECENT_S
    ]


def _up(newest: Mapping[str, Any], now: float, *, going: bool) -> float:
    """Of a life that goes on the time since the last line is added."""
    if not newest:
        return 0.0
    return float(newest["elapsed_s"]) + (max(0.0, now - float(newest["at"])) if going else 0.0)


def _unix(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
