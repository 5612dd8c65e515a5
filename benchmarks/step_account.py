"""Where the wall time of a run's steps went as its trainer saw it, from the run's own log and metrics.jsonl.

A step lasts from the end of the one before it to its own, on rank 0:

    copies of version and checkpoint ─▶ wait for the batch ─▶ calls ─▶ the learner's phases, and what is between them

so that its parts add up to it. What is written behind the training, and how late engines are, stands apart.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import records

LEARNER = ("unpack", "proximal", "values", "actor", "critic")
"""Phases that the learner reports, in their order; `values` and `critic` with PPO alone."""

Interval = tuple[float, float]
"""Seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Seconds a step, means over the counted steps."""

    step_s: float
    wait_s: float
    """For a batch that was not committed yet."""
    publish_s: float
    """Copying weights for a version."""
    checkpoint_s: float
    """Copying all state, mean over all steps, with a checkpoint or without."""
    calls_s: float
    """From the commit to the step: calls from the driver and back, reading the batch, meeting of the ranks."""
    learner: Mapping[str, float]
    """By phase, of LEARNER."""
    between_s: float
    """In the learner's step, and in none of its phases: sums over the ranks, the report."""
    served_after_s: float
    """From the end of a step to the engine's serving of its version, median; nan = never."""
    written_s: Mapping[str, float]
    """Background writing of a `version` and of a `checkpoint`, each; nan = none."""
    training: tuple[Interval, ...]
    """When the ranks were inside the counted steps."""

    @property
    def span(self) -> Interval:
        """From the end of the step before the counted ones to the end of the last."""
        end = self.training[-1][1]
        return end - self.step_s * len(self.training), end


def read(run: Path, *, first: int, last: int) -> Account:
    """Of steps `first` to `last`, both counted. ValueError: the run did not train one of them, or the one before them."""
    reports = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return account(records.read(run), reports, first=first, last=last)


def account(log: Sequence[records.Line], reports: Sequence[Mapping[str, Any]], *, first: int, last: int) -> Account:
    """The same from lines in the order of their times."""
    trained = by_step(log, "step trained", worker="rank-0")
    phases = {report["step"]: report["seconds"] for report in reports}
    if not 2 <= first <= last:
        raise ValueError(
            f"steps {first} to {last} cannot be counted: the first must follow another, and there must be one"
        )
    counted = range(first, last + 1)
    if missing := [step for step in range(first - 1, last + 1) if step not in trained or step not in phases]:
        raise ValueError(f"step {missing[0]} was not trained; the last one was {max(trained, default=0)}")
    ends = {step: line["at"] for step, line in trained.items()}
    begins = {step: line["at"] - line["seconds"] for step, line in trained.items()}
    committed = by_step(log, "batch committed", worker="rank-0")
    published = by_step(log, "published", worker="driver")
    copied = by_step(log, "checkpoint copied", worker="rank-0")
    written = by_step(log, "checkpoint written", worker="rank-0")

    gaps, publish, checkpoint, wait = ({} for _ in range(4))
    for step in counted:
        gaps[step] = begins[step] - ends[step - 1]
        publish[step] = published.get(step - 1, {}).get("gather_s", 0.0)
        checkpoint[step] = copied.get(step - 1, {}).get("seconds", 0.0)
        free = gaps[step] - publish[step] - checkpoint[step]
        late = committed[step]["at"] - ends[step - 1] - publish[step] - checkpoint[step]
        wait[step] = max(0.0, min(free, late))
    served = {line["version"].rpartition("/")[2]: line["at"] for line in records.events(log, "version served")}
    between = [trained[step]["seconds"] - sum(phases[step].values()) for step in counted]
    return Account(
        step_s=(ends[last] - ends[first - 1]) / len(counted),
        wait_s=mean(wait.values()),
        publish_s=mean(publish.values()),
        checkpoint_s=mean(checkpoint.values()),
        calls_s=mean(gaps[step] - publish[step] - checkpoint[step] - wait[step] for step in counted),
        learner={
            name: mean(phases[step].get(name, 0.0) for step in counted)
            for name in LEARNER
            if any(name in phases[step] for step in counted)
        },
        between_s=mean(between),
        served_after_s=median(served[str(step)] - ends[step] for step in counted if str(step) in served),
        written_s={
            "version": mean(published[step]["write_s"] for step in counted if step in published),
            "checkpoint": mean(written[step]["seconds"] for step in counted if step in written),
        },
        training=tuple((begins[step], ends[step]) for step in counted),
    )


def by_step(log: Sequence[records.Line], event: str, *, worker: str) -> dict[int, records.Line]:
    return {line["step"]: line for line in records.events(log, event, worker=worker)}


def mean(values: Any) -> float:
    """nan without any."""
    found = list(values)
    return statistics.fmean(found) if found else float("nan")


def median(values: Any) -> float:
    """nan without any."""
    found = list(values)
    return statistics.median(found) if found else float("nan")
