"""The one sentence of a frame: who is waited for, in words."""

from collections.abc import Mapping, Sequence

from orchestrator.folder import LIVING
from orchestrator.top.spark import span


def sentence(
    stage: str,
    *,
    since_s: float,
    state: str,
    cause: str,
    depths: Mapping[str, int],
    trainer_waits: float | None,
    trainer: str,
    absent: Sequence[str],
    workers: int,
) -> str:
    """stage: the bottleneck, of waited_for.STAGES, "" = nothing to go by; since_s: for how long it is. depths: groups by
    stream. trainer_waits: share of the window in which ranks waited for a batch. absent: workers that have not come up."""
    if state not in LIVING:
        return _over(state, cause) + (f"; {stage} was the bottleneck of its last life" if stage else "")
    if state == "starting" or not stage:
        return _starting(absent, workers, trainer)
    waits = f", the trainer waits {trainer_waits:.0%} of the time" if trainer_waits is not None else ""
    is_it = f"is the bottleneck for {span(since_s)}" if since_s >= 1 else "is the bottleneck"
    if stage == "training":
        ready = depths["experience"]
        held = f": {_groups(ready)} ready for it" if ready else ""
        return f"training {is_it}{held}{_trains(trainer_waits)}"
    if stage == "generation":
        return f"generation {is_it}: {_groups(depths['prompts'])} wait for it or run there{waits}"
    if stage == "scoring":
        return f"scoring {is_it}: {_groups(depths['completions'])} wait for it{waits}"
    return f"publication {is_it}: engines and admission stand still until there is a newer version{waits}"


def _over(state: str, cause: str) -> str:
    said = {
        "completed": "it has trained its last step",
        "stopped": "it was stopped; `headrace resume` goes on",
        "dead": "its driver was killed; `headrace resume` goes on",
        "failed": "it failed",
        "new": "it has not started",
    }.get(state, state)
    return f"{said}: {cause}" if cause else said


def _starting(absent: Sequence[str], workers: int, trainer: str) -> str:
    if absent:
        some = ", ".join(absent[:6]) + (" …" if len(absent) > 6 else "")
        return f"starting: {workers - len(absent)} of {workers} processes are up, {some} still to come"
    return f"starting: all {workers} processes are up ({trainer})" if workers else "starting"


def _trains(waits: float | None) -> str:
    return f", it is at work {1 - waits:.0%} of the time" if waits is not None else ""


def _groups(count: int) -> str:
    return f"{count} group{'s' * (count != 1)}"
