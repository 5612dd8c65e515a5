"""The bottleneck in words: which stage the loop waited for, how much of the time, and what to change in the recipe."""

from collections.abc import Mapping
from typing import Any

from orchestrator.waited_for import bottleneck

START_MATTERS = 0.3
"""Share of the time that went into starting, from which on it is worth a word."""

_KEYS: Mapping[str, tuple[str, ...]] = {
    "generation": (
        "generation.workers",
        "generation.engine.threads",
        "generation.engine.max_sequences",
        "generation.max_tokens",
        "pacing.max_staleness",
    ),
    "scoring": ("scoring.workers", "scoring.threads", "scoring.groups_per_pass", "scoring.reference.precision"),
    "publication": ("pacing.publish_interval_batches", "pacing.max_staleness", "store.fetch_threads"),
    "training": ("training.ranks", "training.threads", "training.epochs", "training.mini_batches"),
}
_REMEDIES: Mapping[str, str] = {
    "generation": "The trainer waits for answers. Add generation workers or threads, let an engine hold more sequences, shorten answers, or let them be older (max_staleness), so that stages overlap.",
    "scoring": "Completions pile up before the scorers. Add scorers or threads, score more groups in a pass, take a coarser precision for the reference, or make the slowest reward faster.",
    "publication": "Engines wait for weights. Publish less often, allow more staleness so that they go on meanwhile, or use a faster store.",
    "training": "The trainer, for whom all others work, is busy: this is how it should be. To go faster add ranks or threads, or spend fewer epochs and mini-batches on a batch.",
}


def bottleneck_of(waited: Mapping[str, float]) -> tuple[str, float] | None:
    """(stage, its share of the time in which the loop turned); None where it never did."""
    stage = bottleneck(waited)
    if stage is None:
        return None
    turning = sum(waited.get(name, 0.0) for name in _REMEDIES)
    return stage, waited.get(stage, 0.0) / turning


def advice(
    waited: Mapping[str, float], settings: Mapping[str, Any], *, begun: float = 1.0, failed: bool = False
) -> tuple[str, ...]:
    """Sentences; none where nothing is known.

    begun: how often the driver or all ranks were started. failed: the run could not go on, so that its pace is no matter.
    """
    found = []
    if (named := bottleneck_of(waited)) is not None:
        stage, share = named
        keys = ", ".join(f"{key} = {settings[key]}" for key in _KEYS[stage] if settings.get(key) is not None)
        found.append(_named(stage, share, waited.get("training", 0.0) / _turning(waited)))
        if not failed:
            found.append(f"{_REMEDIES[stage]}{f' Now: {keys}.' if keys else ''}")
    total = sum(waited.values())
    if total and waited.get("start", 0.0) > START_MATTERS * total:
        told = f"Starting took {waited['start'] / total:.0%} of the time"
        anew = f"{told}, since the run was begun anew {begun - 1:.0f} time{'s' * (begun > 2)}: mend the cause among the events first."
        found.append(anew if begun > 1 else f"{told}: a longer run spreads it over more steps.")
    return tuple(found)


def _named(stage: str, share: float, training: float) -> str:
    if stage == "training":
        return f"Bottleneck: training, at work for {training:.0%} of the time in which the loop turned."
    return f"Bottleneck: {stage}. The trainer was at work for {training:.0%} of the time in which the loop turned, and waited for {stage} {share:.0%} of it."


def _turning(waited: Mapping[str, float]) -> float:
    return sum(waited.get(name, 0.0) for name in _REMEDIES)
