"""A reason of a verdict, and what several rules ask of the figures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Grade = Literal["good", "note", "doubtful", "bad"]
"""A note is neither: good to know."""
Figures = Mapping[str, float]
Reasons = Iterator["Reason"]

BEYOND_NOISE = 3.0
"""Standard errors: a reward that moves by less may not have moved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    grade: Grade
    subject: str
    text: str
    remedy: str = ""
    """What to do about it; "" where there is nothing to do."""


def good(subject: str, text: str) -> Reason:
    return Reason(grade="good", subject=subject, text=text)


def note(subject: str, text: str) -> Reason:
    return Reason(grade="note", subject=subject, text=text)


def doubtful(subject: str, text: str, remedy: str = "") -> Reason:
    return Reason(grade="doubtful", subject=subject, text=text, remedy=remedy)


def bad(subject: str, text: str, remedy: str = "") -> Reason:
    return Reason(grade="bad", subject=subject, text=text, remedy=remedy)


def risen(figures: Figures) -> Literal["rose", "fell", "flat", "unknown"]:
    """What the reward did, as far as its noise lets us tell."""
    if "reward_rise" not in figures:
        return "unknown"
    rise, noise = figures["reward_rise"], figures["reward_noise"]
    if abs(rise) <= BEYOND_NOISE * noise or rise == 0:
        return "flat"
    return "rose" if rise > 0 else "fell"


def ratio(figures: Figures, name: str) -> float | None:
    """Of the end to the beginning."""
    first, last = figures.get(f"{name}_first"), figures.get(f"{name}_last")
    return last / first if first and last is not None and first > 0 else None


def wins(figures: Figures) -> bool:
    """A judge that the policy was not trained on has found it better, beyond doubt."""
    return figures.get("win_rate_low", 0.0) > 0.5 and not figures.get("own_judge")
