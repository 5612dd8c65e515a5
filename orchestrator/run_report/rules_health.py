"""Was the machinery sound: truncation, agreement of engine and trainer, staleness, critic, gradients, groups, restarts."""

from orchestrator.evaluation.verdict import CUT_OFF
from orchestrator.run_report.grades import Figures, Reasons, bad, doubtful, good, note

GAP_NATS = 0.1
"""Between engine and trainer at equal weights; a broken weight transfer was seen at 0.2, a sound one at 0.015."""
CLIPPED = 0.2
"""Share of updates whose gradient is clipped."""
FEW_EFFECTIVE = 0.5
"""Effective share of samples under importance weights."""
LOST, MANY_LOST = 0.05, 0.2
"""Share of groups that were not trained."""
HARDLY = 0.05
"""Explained variance below which a critic tells next to nothing."""
MANY_RESTARTS = 5


def truncation(figures: Figures) -> Reasons:
    last = figures.get("truncated_last")
    if last is not None and last > CUT_OFF:
        yield doubtful(
            "truncation",
            f"{last:.0%} of the answers are cut off at generation.max_tokens, {figures['truncated_first']:.0%} at first.",
            "Raise it, or check the tokens that end an answer.",
        )


def gap(figures: Figures) -> Reasons:
    found = figures.get("logprob_gap")
    if found is None:
        return
    if found > GAP_NATS:
        yield bad(
            "log-prob gap",
            f"Engine and trainer differ by {found:.3f} nats a token at equal weights.",
            "The engine serves other weights than it says, or computes otherwise: read its log.",
        )
    else:
        yield good(
            "log-prob gap", f"Engine and trainer agree to {found:.1g} nats a token, where their weights were equal."
        )


def staleness(figures: Figures) -> Reasons:
    effective = figures.get("effective_samples_last")
    if effective is not None and effective < FEW_EFFECTIVE:
        age = figures.get("staleness_last", 0.0)
        yield doubtful(
            "staleness",
            f"Samples are {age:.1f} steps old, and their weights leave {effective:.0%} of them effective.",
            "Lower pacing.max_staleness or the learning rate.",
        )


def critic(figures: Figures) -> Reasons:
    variance = figures.get("explained_variance_last")
    if variance is not None and variance < 0:
        yield doubtful(
            "critic",
            f"The critic explains {variance:.2f} of the returns' variance: worse than a constant.",
            "Give it more training.algorithm.critic.warmup_steps or a higher rate.",
        )
    elif variance is not None and variance < HARDLY:
        yield note(
            "critic", f"The critic explains {variance:.0%} of the returns' variance: hardly more than a constant."
        )
    elif variance is not None:
        yield good("critic", f"The critic explains {variance:.0%} of the returns' variance.")


def gradient(figures: Figures) -> Reasons:
    if figures.get("grad_clipped", 0.0) > CLIPPED:
        share = figures["grad_clipped"]
        yield doubtful(
            "gradient", f"{share:.0%} of the updates had their gradient clipped.", "Lower the learning rate."
        )


def groups(figures: Figures) -> Reasons:
    share = figures.get("untrained_share", 0.0)
    if share > LOST:
        reason = bad if share > MANY_LOST else doubtful
        told = (
            f"{share:.0%} of {figures['settled']:.0f} groups were not trained: dropped, filtered, quarantined or lost."
        )
        yield reason("groups", told, "The events, and how groups ended, say why.")


def restarts(figures: Figures) -> Reasons:
    counts = {"ranks": figures.get("trainer_restarts", 0.0), "workers": figures.get("worker_restarts", 0.0)}
    counts["the driver"] = figures.get("lives", 1.0) - 1
    total = sum(counts.values())
    if total <= 0:
        return
    named = ", ".join(f"{who} {count:.0f} time{'s' * (count > 1)}" for who, count in counts.items() if count > 0)
    told = f"Begun anew: {named}; nothing was lost by it but time."
    reason = doubtful("restarts", told, "Their causes are among the events.")
    yield reason if total >= MANY_RESTARTS else note("restarts", told)
