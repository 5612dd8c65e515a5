"""Which stage the loop waits for: now, and over a window. Pure functions, that the driver, `top` and the report go by."""

from collections.abc import Mapping
from typing import Any, Literal

from experience.buffer import Snapshot

Stage = Literal["start", "generation", "scoring", "publication", "training", "end"]

STAGES: tuple[Stage, ...] = ("start", "generation", "scoring", "publication", "training", "end")
"""In the order of a run; `end` = after the last step, or after a stop was asked for."""

BUSY_ENOUGH = 0.9
"""Share of the time from which on the trainer, which all others work for, counts as the bottleneck."""


def waited_for(
    snapshot: Snapshot,
    *,
    started: bool,
    at_work: bool,
    over: bool,
    batch_groups: int,
    workers: Mapping[str, Mapping[str, Any]],
) -> Stage:
    """The stage that the loop waits for at this moment.

    started: all ranks are ready. at_work: they train, copy, or have a committed batch to train. over: nothing is left to
    train, or a stop was asked for. workers: what generation workers and scorers last said of themselves, by name.

    While the trainer is idle the next batch lacks groups. Where both generation and scoring hold some, the one that holds
    more is waited for: a slow scorer has completions pile up before it though generation goes on, and before a fast one
    there are few. Generation itself waits for a version when no engine runs anything; so does admission when fewer groups
    are live than make a batch and none is on its way.
    """
    if over and not at_work:
        return "end"
    if not started:
        return "start"
    if at_work:
        return "training"
    generating, scoring = snapshot.depths["prompts"], snapshot.depths["completions"]
    if generating == scoring == 0:  # a whole batch has arrived, and rank 0 commits it; or no more is admitted yet
        return "training" if snapshot.depths["experience"] >= batch_groups else "publication"
    stage: Stage = "generation" if generating >= scoring else "scoring"
    ready = [status for name, status in workers.items() if _of(name, stage) and status.get("state") == "running"]
    if not ready:
        return "start"
    return "publication" if stage == "generation" and all(map(_lacks_a_version, ready)) else stage


def bottleneck(seconds: Mapping[str, float]) -> Stage | None:
    """Over a window: seconds by stage, as the growth of `waited_for` between its ends. None: the loop did not turn.

    Training with BUSY_ENOUGH of the time in which it did, else the largest of the other stages.
    """
    turning = {stage: seconds.get(stage, 0.0) for stage in STAGES[1:-1]}
    total = sum(turning.values())
    if total <= 0:
        return None
    if turning["training"] >= BUSY_ENOUGH * total:
        return "training"
    return max((stage for stage in STAGES[1:-1] if stage != "training"), key=turning.__getitem__)


def _of(name: str, stage: Stage) -> bool:
    return name.partition("-")[0] == ("gen" if stage == "generation" else "score")


def _lacks_a_version(status: Mapping[str, Any]) -> bool:
    """A generation worker that has none yet, or holds prompts and runs none of them."""
    return not status.get("served") or (status.get("running") == 0 and status.get("waiting", 0) > 0)
