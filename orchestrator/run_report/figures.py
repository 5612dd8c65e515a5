"""What a run came to in numbers, from its steps: a flat mapping that verdict, page and `--json` share.

A figure that cannot be had is absent. `first` and `last` are means over the first and the last WINDOW_SHARE of the steps.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.run_report.reading import number, numbers, seconds
from orchestrator.run_report.record import RunRecord

WINDOW_SHARE = 0.1
"""Of the steps, at the beginning and at the end: enough to average noise, few enough to be the beginning and the end."""
LEAST_WINDOW, MOST_WINDOW = 3, 50
LEAST_STEPS = 4
"""To tell a beginning from an end at all."""
DIVERSITY = {"unique": "diversity.unique", "distinct_4": "diversity.distinct_4"}
"""Figure -> measure of a step's `reward_measures`."""

Row = Mapping[str, Any]

_FIRST_AND_LAST: Mapping[str, tuple[str, ...]] = {
    "reward": ("reward_mean",),
    "kl": ("kl_per_response",),
    "length": ("response_length_mean",),
    "length_reward": ("length_reward_correlation",),
    "truncated": ("truncated",),
    "entropy": ("entropy",),
    "staleness": ("staleness_mean",),
    "explained_variance": ("critic", "explained_variance"),
    "effective_samples": ("correction_ess",),
    "capped": ("correction_capped",),
    "grad_norm": ("grad_norm",),
    "equal_groups": ("reward_measures", "diversity.equal"),
    **{name: ("reward_measures", measure) for name, measure in DIVERSITY.items()},
}
"""Figure -> where a step has it."""

KEYS: Mapping[str, str] = {
    "steps": "trained",
    "steps_planned": "that the recipe asks for",
    "X_first, X_last": "X over the first and the last steps; X = reward, kl (nats a response), length (tokens), length_reward (correlation within a batch), "
    "truncated (share), entropy (nats a token), staleness (steps), explained_variance (critic), effective_samples, capped (share), grad_norm, "
    "unique, distinct_4, equal_groups (shares)",
    "reward_rise": "reward_last less reward_first",
    "reward_noise": "standard error of that difference, from how much neighbouring steps differ",
    "reward_highest": "mean over as many neighbouring steps as make the end, where it was highest",
    "kl_highest": "of any step",
    "kl_jump": "largest rise from one step to the next",
    "kl_alarm_steps": "longest stretch of steps above KL_ALARM nats",
    "logprob_gap": "mean |trainer - engine| log-prob in nats, over steps whose newest samples are of the step's own version",
    "grad_clipped": "share of updates whose gradient was clipped",
    "broken_steps": "steps whose loss, reward or gradient is no number",
    "win_rate, win_rate_low, win_rate_high": "of the newest version that was judged against the model that the run began with",
    "own_judge": "1: who judged was the reward that was trained on, and so no judge of its exploitation",
    "win_rate_best, win_rate_best_step": "highest of the run's own evaluations",
    "distinct_3_ratio, length_ratio": "of that evaluation: newest version over the model that the run began with",
    "tokens_per_s, steps_per_hour": "trained, while it stepped",
    "wall_s": "of all lives, as far as the timeline or the steps tell",
    "lives, trainer_restarts, worker_restarts": "counted from the logs",
    "settled, trained, untrained_share": "groups, and the share of them that were dropped, filtered, quarantined or lost",
    "max_staleness": "that the recipe allows",
    "kl_target": "that the controller aims at; absent where the coefficient is fixed",
}
KL_ALARM = 15.0
"""Nats a response: far outside what any of the sources calls healthy (3 to 10)."""


def figures_of(run: RunRecord) -> dict[str, float]:
    found: dict[str, float | None] = {
        "steps": float(len(run.steps) and (number(run.steps[-1], "step") or 0)),
        "steps_planned": float(run.planned),
        "max_staleness": number(run.settings, "pacing.max_staleness"),
        "kl_target": number(run.settings, "training.kl.target_nats")
        if run.settings.get("training.kl.adaptive") is not False
        else None,
        "grad_clipped": _mean([number(row, "grad_clipped_ratio") for row in run.steps]),
        "logprob_gap": _mean([_own_gap(row) for row in run.steps[-MOST_WINDOW:]]),
        "broken_steps": float(sum(map(_broken, run.steps))),
        **_first_and_last(run.steps),
        **_rise(run.steps),
        **_kl(run.steps),
        **_judged(run),
        **_pace(run),
        **_ends(run),
    }
    if number(run.settings, "generation.group_size") == 1:  # an answer alone is always equal to itself
        found |= dict.fromkeys(("equal_groups_first", "equal_groups_last", "unique_first", "unique_last"))
    return {key: value for key, value in found.items() if value is not None and math.isfinite(value)}


def window(steps: int) -> int:
    """Of so many steps, how many are the beginning, and the end."""
    return min(MOST_WINDOW, max(LEAST_WINDOW, round(WINDOW_SHARE * steps)), max(1, steps // 2))


def rise_of(values: Sequence[float]) -> tuple[float, float]:
    """(last window less first window, its standard error), of LEAST_STEPS values or more.

    The noise of a single step is that of neighbours: sigma^2 = mean of squared successive differences / 2 (von Neumann
    1941), which a steady rise hardly enters; of the difference of two means over w steps, sigma * sqrt(2 / w).
    """
    size = window(len(values))
    sigma = math.sqrt(statistics.fmean((b - a) ** 2 for a, b in itertools.pairwise(values)) / 2)
    return statistics.fmean(values[-size:]) - statistics.fmean(values[:size]), sigma * math.sqrt(2 / size)


def _first_and_last(steps: Sequence[Row]) -> dict[str, float | None]:
    """Of the steps that have the figure: a run that diverged is told by its last numbers, and by its broken steps."""
    found: dict[str, float | None] = {}
    for name, path in _FIRST_AND_LAST.items():
        values = [value for row in steps if (value := number(row, *path)) is not None]
        size = window(len(values))
        found[f"{name}_first"], found[f"{name}_last"] = _mean(values[:size]), _mean(values[-size:])
    return found


def _rise(steps: Sequence[Row]) -> dict[str, float | None]:
    values = [value for row in steps if (value := number(row, "reward_mean")) is not None]
    if len(values) < LEAST_STEPS:
        return {}
    rise, noise = rise_of(values)
    return {
        "reward_rise": rise,
        "reward_noise": noise,
        "reward_highest": max(_moving_means(values, window(len(values)))),
    }


def _moving_means(values: Sequence[float], size: int) -> Iterator[float]:
    """Over each `size` neighbours; what sums of 100,000 lose by rounding is far below any noise."""
    sums = [0.0, *itertools.accumulate(values)]
    return ((after - before) / size for before, after in zip(sums, sums[size:], strict=False))


def _kl(steps: Sequence[Row]) -> dict[str, float | None]:
    """Of a long run steps are missing between those that were read: a stretch counts them, a jump is between neighbours."""
    told = [(int(number(row, "step") or 0), number(row, "kl_per_response")) for row in steps]
    found = [(step, value) for step, value in told if value is not None]
    if not found:
        return {}
    longest = 0
    since: int | None = None
    for step, value in found:
        since = None if value <= KL_ALARM else step if since is None else since
        longest = max(longest, 0 if since is None else step - since + 1)
    jumps = [b - a for (before, a), (step, b) in itertools.pairwise(found) if step == before + 1]
    return {
        "kl_highest": max(value for _, value in found),
        "kl_alarm_steps": float(longest),
        "kl_jump": max(jumps, default=0.0),
    }


def _own_gap(row: Row) -> float | None:
    """Above staleness 0 it holds drift of the policy as well, and says nothing of the engine."""
    measured = number(row, "logprob_gap_staleness") == 0 and (number(row, "logprob_gap_sequences") or 0) > 0
    return number(row, "logprob_gap") if measured else None


def _broken(row: Row) -> bool:
    return any(name in row and number(row, name) is None for name in ("loss", "reward_mean", "grad_norm"))


def _judged(run: RunRecord) -> dict[str, float | None]:
    """By the pipeline's evaluation of the newest version, else by the newest of the run's own."""
    keys = ("win_rate", "win_rate_low", "win_rate_high", "distinct_3_ratio", "length_ratio")
    own = [row for row in run.evaluations if number(row, "win_rate") is not None]
    judged = numbers(run.judgement, "figures", run.name)
    source: Mapping[str, Any] = judged if "win_rate" in judged else own[-1] if own else {}
    found = {key: number(source, key) for key in keys}
    if found["win_rate"] is not None and run.settings.get("evaluation.judge", "") is None:
        found["own_judge"] = 1.0
    if own:
        best = max(own, key=lambda row: number(row, "win_rate") or 0.0)
        found |= {"win_rate_best": number(best, "win_rate"), "win_rate_best_step": number(best, "step")}
    return found


def _pace(run: RunRecord) -> dict[str, float | None]:
    """Over pairs of neighbouring steps of one life: a pause between two lives is nobody's pace."""
    tokens = wall = count = 0.0
    for before, row in itertools.pairwise(run.steps):
        start, end = seconds(before), seconds(row)
        skipped = (number(row, "step") or 0) - (number(before, "step") or 0)
        if start is None or end is None or end <= start or row.get("epoch") != before.get("epoch"):
            continue
        wall, count = wall + end - start, count + skipped
        tokens += skipped * (number(row, "tokens_trained") or 0.0)
    return {
        "wall_s": _wall_s(run) or None,
        "tokens_per_s": tokens / wall if wall else None,
        "steps_per_hour": 3600 * count / wall if wall else None,
    }


def _wall_s(run: RunRecord) -> float:
    """Each life's last word of its own clock, added up: another epoch, or a clock that fell, is another life."""
    total = last = 0.0
    epoch: Any = None
    for row in run.timeline or sorted(run.steps, key=lambda row: seconds(row) or 0.0):
        elapsed = number(row, "elapsed_s")
        if elapsed is None:
            continue
        if elapsed < last or row.get("epoch") != epoch:
            total, epoch = total + last, row.get("epoch")
        last = elapsed
    return total + last


def _ends(run: RunRecord) -> dict[str, float | None]:
    restarts = [event for event in run.events if event.kind == "restart"]
    found: dict[str, float | None] = {
        "lives": float(max(1, len(run.began))) if run.state != "new" else 0.0,
        "trainer_restarts": float(sum(event.count for event in restarts if event.worker == "ranks")),
        "worker_restarts": float(sum(event.count for event in restarts if event.worker != "ranks")),
    }
    quarantined = sum(event.count for event in run.events if event.kind == "quarantine")
    if run.settled is not None or quarantined:
        outcomes = run.settled.outcomes if run.settled else {}
        trained = outcomes.get("trained", 0)
        # What was quarantined after the last commit is in no batch yet.
        untrained = max(sum(outcomes.values()) - trained, quarantined)
        found |= {
            "settled": float(trained + untrained),
            "trained": float(trained),
            "untrained_share": untrained / max(1, trained + untrained),
        }
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
