"""Which of two runs was better, in words and numbers: a pure function of their figures and settings."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.run_report.grades import BEYOND_NOISE, Grade

Figures = Mapping[str, float]

NOISE = (
    "Each run is one draw: the same recipe with another seed often differs by as much. Before a difference of this kind "
    "decides anything, repeat both with two or three seeds (run.seed)."
)
Side = Literal["A", "B", "neither"]

ABSENT = "(absent)"
HOW = ("interval_steps", "deadline_s", "patience_steps", "metric", "gates")
"""Settings of an evaluation that do not change what it finds."""
SLIGHT = 0.1
"""Of a figure: differences below this share are called none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    better: Side
    headline: str
    sentences: tuple[str, ...]


def compare(
    a: Figures,
    b: Figures,
    *,
    names: tuple[str, str],
    grades: tuple[Grade, Grade],
    same_reward: bool,
    same_judge: bool,
) -> Comparison:
    """By the win rates where one judge has seen both, else by the reward where both were trained on the same, unless the
    one that ended higher has a bad verdict and the other has none."""
    sentences = [*_pace(a, b, names), *_prices(a, b, names), NOISE]
    if same_judge and "win_rate" in a and "win_rate" in b:
        better, said = _by_win_rate(a, b, names)
    elif same_reward and "reward_rise" in a and "reward_rise" in b:
        better, said = _by_reward(a, b, names)
        if better != "neither" and grades[better == "B"] == "bad" and grades[better == "A"] != "bad":
            better, said = _spoilt(better, said, names)
    else:
        better, said = "neither", _not_comparable(same_reward, same_judge)
    return Comparison(better=better, headline=said, sentences=tuple(sentences))


def same(key: str, a: Mapping[str, Any], b: Mapping[str, Any], *, apart_from: Collection[str] = ()) -> bool:
    """All settings below a key are equal, and there are some; of a path its last part, since folders are copied."""
    first, second = (_below(key, one, apart_from) for one in (a, b))
    return bool(first) and first == second


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> the values of both, of settings that differ by more than where their folders lie."""
    keys = [key for key in (*a, *(key for key in b if key not in a)) if not key.startswith(("run.name", "run.root"))]
    pairs = {key: (a.get(key, ABSENT), b.get(key, ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if _last_part(pair[0]) != _last_part(pair[1])}


def _by_win_rate(a: Figures, b: Figures, names: tuple[str, str]) -> tuple[Side, str]:
    """Beyond noise where neither interval holds the other's rate."""
    told = " against ".join(
        f"{one['win_rate']:.1%} ({one.get('win_rate_low', 0.0):.1%} to {one.get('win_rate_high', 1.0):.1%})"
        for one in (a, b)
    )
    first_wins = a.get("win_rate_low", 0.0) > b["win_rate"] and b.get("win_rate_high", 1.0) < a["win_rate"]
    second_wins = b.get("win_rate_low", 0.0) > a["win_rate"] and a.get("win_rate_high", 1.0) < b["win_rate"]
    if first_wins or second_wins:
        return (
            ("A", f"{names[0]} was better: its win rate is {told}.")
            if first_wins
            else ("B", f"{names[1]} was better: the win rates are {told}.")
        )
    return "neither", f"No difference shown: the win rates are {told}."


def _by_reward(a: Figures, b: Figures, names: tuple[str, str]) -> tuple[Side, str]:
    """The last windows' means; each has half of the variance of its rise's."""
    difference = b["reward_last"] - a["reward_last"]
    error = math.sqrt((a["reward_noise"] ** 2 + b["reward_noise"] ** 2) / 2)
    told = f"reward {a['reward_last']:.3g} against {b['reward_last']:.3g} at the end, a difference of {abs(difference):.3g} with a standard error of {error:.2g}"
    caveat = "by the reward that they were trained on; no judge has compared them"
    if abs(difference) <= BEYOND_NOISE * error:
        return "neither", f"No difference beyond noise: {told}."
    winner: Literal["A", "B"] = "B" if difference > 0 else "A"
    return winner, f"{names[winner == 'B']} ended higher: {told}; {caveat}."


def _spoilt(higher: Side, said: str, names: tuple[str, str]) -> tuple[Side, str]:
    """A reward that was hacked is higher than one that was earned."""
    other: Side = "A" if higher == "B" else "B"
    return (
        other,
        f"{names[other == 'B']} is the one to keep: {said.removesuffix('.')}, and the verdict on {names[higher == 'B']} is bad.",
    )


def _not_comparable(same_reward: bool, same_judge: bool) -> str:
    if not same_reward:
        return "Not comparable: they were trained on different rewards, and no one judge has seen both."
    return (
        "Not comparable: at least one has trained too few steps to tell."
        if same_judge
        else "Not comparable yet: too few steps."
    )


def _pace(a: Figures, b: Figures, names: tuple[str, str]) -> list[str]:
    if "tokens_per_s" not in a or "tokens_per_s" not in b:
        return []
    ratio = b["tokens_per_s"] / a["tokens_per_s"]
    if abs(ratio - 1) < SLIGHT:
        return [f"Both trained at about {a['tokens_per_s']:,.0f} tokens a second."]
    fast, by = (names[1], ratio) if ratio > 1 else (names[0], 1 / ratio)
    return [
        f"{fast} was {by:.2f} times as fast: {a['tokens_per_s']:,.0f} against {b['tokens_per_s']:,.0f} tokens trained a second."
    ]


def _prices(a: Figures, b: Figures, names: tuple[str, str]) -> list[str]:
    """What each paid for its reward."""
    found = []
    for key, label, form in (
        ("kl_last", "KL", ".2f"),
        ("length_last", "length", ".0f"),
        ("distinct_4_last", "distinct 4-grams", ".0%"),
        ("steps", "steps", ".0f"),
    ):
        if key in a and key in b and abs(a[key] - b[key]) > SLIGHT * max(abs(a[key]), abs(b[key])):
            found.append(f"{label} {a[key]:{form}} against {b[key]:{form}}")
    return [f"At the end they differ in {', '.join(found)} ({names[0]} against {names[1]})."] if found else []


def _below(key: str, settings: Mapping[str, Any], apart_from: Collection[str]) -> dict[str, Any]:
    """By name below the key."""
    found = {}
    for name, value in settings.items():
        section, _, rest = name.removeprefix(key).partition(".")
        if name.startswith(key) and not section and rest and rest.partition(".")[0] not in apart_from:
            found[rest] = _last_part(value)
    return found


def _last_part(value: Any) -> Any:
    return value.rstrip("/").rpartition("/")[2] if isinstance(value, str) and value.startswith("/") else value
