"""Conditions on the flat figures: `win_rate>=0.7`."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.evaluation.config import GATE

_SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """One condition on one policy."""

    gate: str
    policy: str
    value: float
    passed: bool


def judge_gates(gates: Sequence[str], figures: Mapping[str, Mapping[str, float]]) -> list[GateResult]:
    """Every condition on every policy, {name: its figures}. ValueError: a figure that is not there."""
    return [_judge(gate, name, found) for gate in gates for name, found in figures.items()]


def _judge(gate: str, name: str, figures: Mapping[str, float]) -> GateResult:
    match = GATE.fullmatch(gate)
    if match is None:
        raise ValueError(f"--gate {gate}: is no condition; write KEY>=VALUE, as in win_rate>=0.7")
    key, bound = match["key"], float(match["bound"])
    if key not in figures:
        raise ValueError(f"--gate {gate}: {name} has no such figure; it has {', '.join(sorted(figures))}")
    return GateResult(gate=gate, policy=name, value=figures[key], passed=_SIGNS[match["sign"]](figures[key], bound))
