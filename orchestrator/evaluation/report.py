"""A comparison as text and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.evaluation.evaluator import Comparison
from orchestrator.evaluation.outcome import Outcome
from orchestrator.evaluation.plan import Plan
from orchestrator.evaluation.verdict import verdict

ROWS: Sequence[tuple[str, str, str]] = (
    ("win rate", "win_rate", ".1%"),
    ("  from", "win_rate_low", ".1%"),
    ("  to", "win_rate_high", ".1%"),
    ("  ties", "ties", ".1%"),
    ("  judge contradicts itself", "self_disagreement", ".1%"),
    ("judge's score", "score", ".3f"),
    ("  from", "score_low", ".3f"),
    ("  to", "score_high", ".3f"),
    ("reward", "reward", ".3f"),
    ("  gain, from", "reward_gain_low", "+.3f"),
    ("  gain, to", "reward_gain_high", "+.3f"),
    ("  wins by it", "reward_win_rate", ".1%"),
    ("KL to the reference, nats", "kl", ".2f"),
    ("tokens an answer", "length", ".1f"),
    ("  median", "length_p50", ".0f"),
    ("  95th percentile", "length_p95", ".0f"),
    ("  of the baseline's", "length_ratio", ".2f"),
    ("ended at max_tokens", "truncated", ".1%"),
    ("distinct 1-grams", "distinct_1", ".3f"),
    ("distinct 2-grams", "distinct_2", ".3f"),
    ("distinct 3-grams", "distinct_3", ".3f"),
    ("  of the baseline's", "distinct_3_ratio", ".2f"),
    ("distinct 4-grams", "distinct_4", ".3f"),
    ("unique answers a prompt", "unique", ".1%"),
    ("pass@1", "pass@1", ".1%"),
    ("pass@8", "pass@8", ".1%"),
    ("pass@64", "pass@64", ".1%"),
    ("pass@256", "pass@256", ".1%"),
)
"""Label, key and format of what the table shows, where it is there."""
SIDE_BY_SIDE = 3
"""Prompts whose first answers the text shows."""
_LABEL_WIDTH, _ANSWER_CHARACTERS = 28, 300


def lines(outcome: Outcome) -> Iterator[str]:
    """The whole report for a terminal."""
    comparison, plan = outcome.comparison, outcome.plan
    drawing = plan.drawing
    yield (
        f"{len(plan.questions)} prompts x {drawing.samples} answer{'s' * (drawing.samples > 1)} at temperature {drawing.temperature:g}, "
        f"judged by {comparison.judge}"
    )
    yield from table(comparison)
    yield from category_table(comparison)
    yield from side_by_side(comparison, plan)
    yield ""
    yield from verdicts(comparison)
    yield from (f"warning: {line}" for line in outcome.warnings)
    for gate in outcome.gates:
        yield f"gate {gate.gate} for {comparison.labels[gate.policy]}: {gate.value:.4g}, {'passed' if gate.passed else 'FAILED'}"


def verdicts(comparison: Comparison) -> Iterator[str]:
    """One line for each policy but the baseline."""
    labels = comparison.labels
    for name, figures in list(comparison.figures.items())[1:]:
        yield f"{labels[name]} against {labels[comparison.baseline]}: {verdict(figures)}"


def table(comparison: Comparison) -> Iterator[str]:
    """One column a policy, the baseline first."""
    names = comparison.labels.values()
    width = max(10, *(len(name) for name in names)) + 2
    yield f"{'':{_LABEL_WIDTH}}" + "".join(f"{name:>{width}}" for name in names)
    columns = list(comparison.figures.values())
    for label, key, form in rows(columns):
        yield f"{label:{_LABEL_WIDTH}}" + "".join(f"{cell(one, key, form):>{width}}" for one in columns)


def rows(columns: Sequence[Mapping[str, float]]) -> Iterator[tuple[str, str, str]]:
    """Those of which some policy has a figure; the reward's components after the reward."""
    for label, key, form in ROWS:
        if any(key in one for one in columns):
            yield label, key, form
        if key == "reward":
            yield from (
                (f"  {name.partition('.')[2]}", name, ".3f") for name in columns[0] if name.startswith("reward.")
            )


def cell(figures: Mapping[str, float], key: str, form: str) -> str:
    return number(figures[key], form) if key in figures else ""


def number(value: float, form: str) -> str:
    """Nothing is minus zero."""
    shown = format(value, form)
    return shown if any(digit in shown for digit in "123456789") else shown.replace("-", "")


def category_table(comparison: Comparison) -> Iterator[str]:
    """Of each policy by category; nothing without categories."""
    names = comparison.labels
    for name, categories in comparison.categories.items():
        for label, one in categories.items():
            parts = [f"{one['prompts']:.0f} prompts"]
            if "win_rate" in one:
                parts.append(f"wins {one['win_rate']:.1%} ({one['win_rate_low']:.1%} to {one['win_rate_high']:.1%})")
            if "score" in one:
                parts.append(f"score {one['score']:.3f}")
            yield f"{names[name]}  {label}: {', '.join(parts)}, {one['length']:.1f} tokens"


def side_by_side(comparison: Comparison, plan: Plan) -> Iterator[str]:
    """The first answers to the first prompts, not picked."""
    names = comparison.labels
    width = max(map(len, names.values()))
    for number, question in enumerate(plan.questions[:SIDE_BY_SIDE]):
        yield f"\n{_cut(question.text)}"
        for policy in comparison.policies:
            yield f"  {names[policy.name]:{width}}  {_cut(policy.scored[number][0].answer.text)}"


def content(outcome: Outcome, *, answers: bool) -> dict[str, Any]:
    """As JSON: the flat figures by policy, and, if asked for, all answers side by side."""
    comparison, plan = outcome.comparison, outcome.plan
    told = {
        "baseline": comparison.baseline,
        "judge": comparison.judge,
        "prompts": len(plan.questions),
        "samples": plan.drawing.samples,
        "temperature": plan.drawing.temperature,
        "max_tokens": plan.drawing.max_tokens,
        "seed": plan.drawing.seed,
        "reference": plan.reference,
        "figures": {name: dict(figures) for name, figures in comparison.figures.items()},
        "categories": {name: dict(one) for name, one in comparison.categories.items()},
        "verdicts": {name: verdict(one) for name, one in comparison.figures.items() if verdict(one)},
        "warnings": list(outcome.warnings),
        "gates": [{"gate": g.gate, "policy": g.policy, "value": g.value, "passed": g.passed} for g in outcome.gates],
    }
    return told | ({"answers": _answers(comparison, plan)} if answers else {})


def _answers(comparison: Comparison, plan: Plan) -> list[dict[str, Any]]:
    return [
        {
            "prompt": question.text,
            "category": question.category,
            "won": {name: won[number] for name, won in comparison.won.items()},
            "answers": {
                policy.name: [
                    {
                        "text": one.answer.text,
                        "tokens": len(one.answer.tokens),
                        "finish_reason": one.answer.finish_reason,
                        "score": one.score,
                        "reward": one.reward,
                        "components": dict(one.components),
                        "kl": one.kl,
                    }
                    for one in policy.scored[number]
                ]
                for policy in comparison.policies
            },
        }
        for number, question in enumerate(plan.questions)
    ]


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _ANSWER_CHARACTERS else f"{flat[:_ANSWER_CHARACTERS]}…"
