"""What the figures amount to, in words."""

from collections.abc import Iterator, Mapping
from typing import Literal

MEANINGFUL, STRONG = 0.55, 0.65
"""Win rates from which a difference counts for something, and for much."""
HEADROOM = 1.5
"""pass@64 over pass@1: below it, samples hold little that reinforcement could make more likely."""
SIGNIFICANT = 0.05
"""p of the sign test: the bootstrap says nothing of a handful of prompts that all went one way."""
UNSTEADY = 0.2
"""Share of pairs on which a judge contradicts itself: above it, its verdicts are mostly about places."""
CUT_OFF = 0.2
"""Share of answers that end at max_tokens."""
FEW_WORDS = 0.6
"""distinct_3_ratio below which a policy repeats itself: a hacked reward looks like this."""


def verdict(figures: Mapping[str, float]) -> str:
    """Whether a policy is better than the baseline. "" where it was not compared."""
    if "win_rate" not in figures:
        return ""
    rate, low, high, p = (figures[key] for key in ("win_rate", "win_rate_low", "win_rate_high", "p_value"))
    measured = f"wins {rate:.1%} (95 % interval {low:.1%} to {high:.1%}, sign test p = {_p(p)})"
    shown = standing(figures)
    if shown == "even":
        return f"no difference shown: {measured}"
    return f"{_size(rate if shown == 'better' else 1 - rate)} {shown}: {measured}"


def standing(figures: Mapping[str, float]) -> Literal["better", "worse", "even"]:
    """What the interval of the win rate and the sign test show together."""
    if figures["p_value"] >= SIGNIFICANT or figures["win_rate_low"] <= 0.5 <= figures["win_rate_high"]:
        return "even"
    return "better" if figures["win_rate_low"] > 0.5 else "worse"


def warnings(name: str, figures: Mapping[str, float]) -> Iterator[str]:
    """What a reader should know before believing the figures of a policy."""
    if figures.get("self_disagreement", 0.0) > UNSTEADY:
        yield (
            f"{name}: the judge contradicts itself on {figures['self_disagreement']:.0%} of the pairs when they change places; "
            "these count as ties, and the rest is worth little: take a better judge"
        )
    if figures["truncated"] > CUT_OFF:
        yield f"{name}: {figures['truncated']:.0%} of the answers end at max_tokens; raise it, or they are judged cut off"
    if figures.get("distinct_3_ratio", 1.0) < FEW_WORDS:
        yield (
            f"{name}: has {figures['distinct_3_ratio']:.2f} of the baseline's distinct 3-grams; it repeats itself, as one "
            "does that has found an error of its reward"
        )
    yield from headroom(name, figures)


def headroom(name: str, figures: Mapping[str, float]) -> Iterator[str]:
    """What pass@k says of reinforcing this policy further."""
    if "pass@64" not in figures:
        return
    one, many = figures["pass@1"], figures["pass@64"]
    little = f"{name}: little headroom for reinforcement"
    if many == 0.0:
        yield f"{little}: it is right hardly ever; teach it by SFT first, or take easier prompts"
    elif one > 1 / HEADROOM:
        yield f"{little} on these prompts: pass@1 is {one:.0%} already; take harder ones"
    elif many < HEADROOM * one:
        yield (
            f"{little}: pass@64 is {many / one:.2f} of pass@1, below {HEADROOM}; teach it by SFT first, or take other prompts"
        )


def _size(rate: float) -> str:
    return "strongly" if rate > STRONG else "meaningfully" if rate > MEANINGFUL else "slightly"


def _p(value: float) -> str:
    return f"{value:.1g}" if value < 0.001 else f"{value:.3f}"
