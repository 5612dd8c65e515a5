"""Whether a run was good, in words: a pure function of its figures, and each reason with the number that it goes by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.run_report import rules_health, rules_learning
from orchestrator.run_report.grades import Figures, Grade, Reason, Reasons, risen, wins

RULES: Sequence[Callable[[Figures], Reasons]] = (
    rules_learning.trained,
    rules_learning.hacked,
    rules_learning.judged,
    rules_learning.reward,
    rules_learning.kl,
    rules_learning.length,
    rules_learning.diversity,
    rules_health.truncation,
    rules_health.gap,
    rules_health.staleness,
    rules_health.critic,
    rules_health.gradient,
    rules_health.groups,
    rules_health.restarts,
)
"""In the order in which reasons of one grade are read."""

_ORDER: Mapping[Grade, int] = {"bad": 0, "doubtful": 1, "good": 2, "note": 3}
_ABOUT_REWARD = ("reward", "win rate", "hacking")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    grade: Grade
    """good, doubtful or bad."""
    headline: str
    reasons: tuple[Reason, ...]
    """The worst first."""


def verdict(figures: Figures, *, state: str, cause: str = "") -> Verdict:
    """Bad by any bad reason, doubtful by any doubtful one, or where nothing shows that the policy has got better."""
    rules = (reason for rule in RULES for reason in rule(figures))
    reasons = [*rules_learning.ending(figures, state=state, cause=cause), *rules]
    reasons.sort(key=lambda reason: _ORDER[reason.grade])  # stable: rules in their order
    worst = reasons[0].grade if reasons else "doubtful"
    better = any(reason.grade == "good" and reason.subject in _ABOUT_REWARD for reason in reasons)
    grade: Grade = worst if worst in ("bad", "doubtful") else "good" if better else "doubtful"
    return Verdict(grade=grade, headline=_headline(grade, figures, state, reasons), reasons=tuple(reasons))


def _headline(grade: Grade, figures: Figures, state: str, reasons: Sequence[Reason]) -> str:
    word = grade.capitalize() + " so far" * (state in ("running", "starting"))
    if grade == "good":
        return f"{word}: {_gain(figures)}, and nothing speaks against it."
    first = next(iter(reasons), None)
    if first is None:
        return f"{word}: there is nothing to judge yet."
    if (risen(figures) == "rose" or wins(figures)) and first.subject not in _ABOUT_REWARD:
        gain = _gain(figures)
        return f"{word}: {gain}. But: {first.text}"
    return f"{word}: {first.text}"


def _gain(figures: Figures) -> str:
    """Of a policy that has got better."""
    if wins(figures):
        return f"the policy wins {figures['win_rate']:.0%} against the model that it began as"
    return f"the reward rose from {figures['reward_first']:.3g} to {figures['reward_last']:.3g}"
