"""Pairs of answers to one prompt, of which one is preferred: read, checked, filtered, and split by prompt.

    {"prompt": "…", "chosen": "…", "rejected": "…", "margin": 1.0, "annotators": ["chosen", "chosen", "rejected"], "category": "…"}

The last three may be left out. `annotators` has one vote an annotator, for the answer that stands under that name.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experience.schema import Int32Array
from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.reward.pair_text import BadRow, Template, answer_text, parse_row, shown

MAX_PROBLEMS = 20
"""Bad rows that are shown; the rest is counted."""
_VOTES = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    line: int
    """In its file, from 1."""
    prompt_key: str
    """SHA-256 of the rendered prompt: pairs with the same one belong together."""
    chosen: Int32Array
    """[T] fed tokens: prompt, answer, end of sequence; the score is that of the last."""
    rejected: Int32Array
    """[T']"""
    prompt_tokens: int
    margin: float
    category: str
    """"" where the row has none."""

    @property
    def tokens(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def answer_tokens(self) -> tuple[int, int]:
        """Of the chosen and the rejected answer, their ends included."""
        return len(self.chosen) - self.prompt_tokens, len(self.rejected) - self.prompt_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class PairFile:
    """What a file of pairs gave."""

    path: str
    sha256: str
    rows: int
    """Lines that are not blank."""
    pairs: tuple[Pair, ...]
    disagreed: int = 0
    """Left out, since too few annotators agreed, or the only one prefers the other answer."""
    several_annotators: int = 0
    """Rows of which it says how far people agree."""
    bad: Mapping[str, int] = field(default_factory=dict)
    """{kind of problem: rows left out for it}"""
    first_bad: str = ""
    """`line N: …` of the first of them; "" where there is none."""

    def counts(self) -> dict[str, Any]:
        """For the card."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "rows": self.rows,
            "pairs": len(self.pairs),
            "several_annotators": self.several_annotators,
            "disagreed": self.disagreed,
            "bad": dict(self.bad),
        }


class BadPairs(ValueError):
    """What is wrong with a file of pairs: `lines`, without its name."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


def read_pairs(
    path: str | Path, template: Template, *, config: RewardTrainingConfig, max_tokens: int | None
) -> PairFile:
    """The pairs of a JSONL file. BadPairs: rows that are bad, where they are refused; annotators asked for in vain."""
    data = Path(path).read_bytes()
    good: list[_Row] = []
    bad: list[tuple[int, BadRow]] = []
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    for number, line in lines:
        try:
            good.append(_parsed(line, number, template, config))
        except BadRow as error:
            bad.append((number, error))
    voted = [row for row in good if row.annotators > 1]
    if config.min_agreement is not None and not voted:
        raise BadPairs([_no_annotators(config)])
    kept = [row for row in good if row.agreement >= config.agreement]
    pairs = _tokenised(kept, template, max_tokens, bad)
    bad.sort(key=lambda one: one[0])
    if bad and config.bad_pairs == "refuse":
        remedy = "correct the line, or set reward.bad_pairs=skip to leave such rows out"
        raise BadPairs(shortened([f"line {number}: {error}; {remedy}" for number, error in bad]))
    return PairFile(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        rows=len(lines),
        pairs=tuple(pairs),
        disagreed=len(good) - len(kept),
        several_annotators=len(voted),
        bad=dict(Counter(error.kind for _, error in bad)),
        first_bad=f"line {bad[0][0]}: {bad[0][1]}" if bad else "",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A row whose texts are right."""

    line: int
    prompt: str
    """Rendered."""
    chosen: str
    rejected: str
    margin: float
    category: str
    annotators: int
    agreement: float
    """Share of the annotators who prefer the chosen answer; 1 where there is none."""


def _parsed(line: bytes, number: int, template: Template, config: RewardTrainingConfig) -> _Row:
    row = parse_row(line)
    for column in (config.prompt_column, config.chosen_column, config.rejected_column):
        if column not in row:
            raise BadRow("no such column", f"no column {column!r}, only {', '.join(sorted(row))[:200] or 'none'}")
    chosen = answer_text(row[config.chosen_column], config.chosen_column)
    rejected = answer_text(row[config.rejected_column], config.rejected_column)
    if chosen == rejected:
        raise BadRow("identical", "chosen and rejected are the same")
    votes = _votes(row.get(config.annotators_column), config.annotators_column)
    return _Row(
        line=number,
        prompt=template.render(row[config.prompt_column]),
        chosen=chosen,
        rejected=rejected,
        margin=_margin(row.get(config.margin_column), config.margin_column),
        category=_category(row.get(config.category_column), config.category_column),
        annotators=len(votes),
        agreement=votes.count("chosen") / len(votes) if votes else 1.0,
    )


def _margin(value: Any, column: str) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadRow("wrong type", f"{column} is {shown(value)}, not a number of at least 0")
    return float(value)


def _category(value: Any, column: str) -> str:
    if value is not None and not isinstance(value, str):
        raise BadRow("wrong type", f"{column} is {shown(value)}, not a text")
    return value or ""


def _votes(value: Any, column: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or any(vote not in _VOTES for vote in value):
        raise BadRow(
            "wrong type", f'{column} is {shown(value)}, not a list of "chosen" and "rejected", one an annotator'
        )
    return value


def _tokenised(
    rows: Sequence[_Row], template: Template, max_tokens: int | None, bad: list[tuple[int, BadRow]]
) -> list[Pair]:
    """In order; rows that tokens show to be bad are added to `bad`."""
    prompts = template.prompts([row.prompt for row in rows])
    chosen = template.answers([row.chosen for row in rows])
    rejected = template.answers([row.rejected for row in rows])
    pairs = []
    for row, prompt, better, worse in zip(rows, prompts, chosen, rejected, strict=True):
        longest = len(prompt) + max(len(better), len(worse))
        if not prompt:
            bad.append((row.line, BadRow("empty", "the prompt has no tokens")))
        elif better == worse:
            bad.append((row.line, BadRow("identical", "chosen and rejected are the same tokens")))
        elif max_tokens is not None and longest > max_tokens:
            reason = f"{longest} tokens are more than the model's context of {max_tokens}"
            bad.append((row.line, BadRow("too long", reason)))
        else:
            pairs.append(_pair(row, prompt, better, worse))
    return pairs


def _pair(row: _Row, prompt: list[int], chosen: list[int], rejected: list[int]) -> Pair:
    return Pair(
        line=row.line,
        prompt_key=hashlib.sha256(row.prompt.encode()).hexdigest(),
        chosen=np.array(prompt + chosen, dtype=np.int32),
        rejected=np.array(prompt + rejected, dtype=np.int32),
        prompt_tokens=len(prompt),
        margin=row.margin,
        category=row.category,
    )


def shortened(lines: Sequence[str]) -> list[str]:
    """The first of them, and how many more there are."""
    rest = [f"… and {len(lines) - MAX_PROBLEMS} more lines like these"] if len(lines) > MAX_PROBLEMS else []
    return [*lines[:MAX_PROBLEMS], *rest]


def _no_annotators(config: RewardTrainingConfig) -> str:
    return (
        f"no row has more than one annotator in column {config.annotators_column!r}, so there is no agreement to ask for; "
        "set reward.min_agreement=null, or give each row its votes"
    )
