"""A comparison with what is to be thought of it: doubts, and whether the gates hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config import Recipe
from orchestrator.evaluation import contamination
from orchestrator.evaluation.evaluator import Comparison
from orchestrator.evaluation.gates import GateResult, judge_gates
from orchestrator.evaluation.plan import Plan
from orchestrator.evaluation.verdict import warnings


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    comparison: Comparison
    plan: Plan
    warnings: tuple[str, ...]
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Every gate holds, for every policy that it is about."""
        return all(gate.passed for gate in self.gates)


def conclude(comparison: Comparison, plan: Plan, *, recipe: Recipe | None, gates: Sequence[str] = ()) -> Outcome:
    """gates: beside those of the plan. ValueError: one of a figure that is not there."""
    seen = "" if recipe is None else contamination.warning(recipe, [question.text for question in plan.questions])
    doubts = [
        line for name, figures in comparison.figures.items() for line in warnings(comparison.labels[name], figures)
    ]
    return Outcome(
        comparison=comparison,
        plan=plan,
        warnings=tuple(line for line in (seen, *doubts) if line),
        gates=tuple(judge_gates([*plan.config.gates, *gates], gated(comparison))),
    )


def gated(comparison: Comparison) -> Mapping[str, Mapping[str, float]]:
    """Whom gates are about: all but the baseline, or the one policy that there is."""
    figures = dict(comparison.figures)
    if len(figures) > 1:
        del figures[comparison.baseline]
    return figures
