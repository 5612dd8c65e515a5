"""What is known of a data set before a run starts: its rows, what is left out, and how long its prompts are."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from orchestrator.data.rows import MAX_PROBLEMS
from orchestrator.data.source import Source
from orchestrator.data.tokens import PromptTokenizer
from orchestrator.recipe import RecipeError

CHECKED_PROMPTS = 10_000
"""Of each data set, tokenised before the start (some 1 s of short prompts); a larger one by rows at even distances."""
_BATCH_PROMPTS = 1024
"""Texts in memory at a time."""
_NAMED_BAD = 3
"""Bad rows that are recorded; `headrace data` and the refusal name more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """One data set."""

    name: str
    path: str
    kind: str
    """jsonl, parquet or arrow"""
    files: tuple[str, ...]
    digest: str
    share: float
    """Of all prompts drawn."""
    rows: int
    """That can be used."""
    bad_rows: int
    first_bad: tuple[str, ...]
    left_out: Mapping[str, str]
    """{column: type} that JSON cannot carry to the reward functions."""
    checked: int
    """Prompts that were tokenised; the figures below are of these."""
    unfit: int
    """Prompts among them that cannot be asked."""
    tokens_p50: int
    tokens_p99: int
    tokens_longest: int
    """Among those that can be asked."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def survey(source: Source, tokenizer: PromptTokenizer, *, share: float, drop_unfit: bool) -> Survey:
    """RecipeError: some prompt is unfit and may not be dropped, or none is left."""
    indices = _checked(source)
    lengths, problems = [], []
    for start in range(0, len(indices), _BATCH_PROMPTS):
        batch = indices[start : start + _BATCH_PROMPTS].tolist()
        for index, one in zip(batch, tokenizer.batch([source.at(index) for index in batch]), strict=True):
            if one.unfit:
                problems.append((index, one.unfit))
            else:
                lengths.append(len(one.tokens))
    if problems and (not drop_unfit or not lengths):
        raise RecipeError(_unfit_lines(source, problems, dropped=drop_unfit))
    return Survey(
        name=source.name,
        path=source.path,
        kind=source.files.kind,
        files=tuple(source.files.name(file) for file in source.files.files),
        digest=source.digest,
        share=share,
        rows=len(source),
        bad_rows=source.bad_rows,
        first_bad=source.bad[:_NAMED_BAD],
        left_out=source.rows.left_out,
        checked=len(indices),
        unfit=len(problems),
        tokens_p50=_percentile(lengths, 50),
        tokens_p99=_percentile(lengths, 99),
        tokens_longest=max(lengths),
    )


def _checked(source: Source) -> Any:
    """[n] indices of the rows to tokenise: all, or as many as are checked."""
    if len(source) <= CHECKED_PROMPTS:
        return source.good
    return source.good[np.linspace(0, len(source) - 1, CHECKED_PROMPTS).astype(np.int64)]


def _unfit_lines(source: Source, problems: list[tuple[int, str]], *, dropped: bool) -> Iterator[str]:
    yield from (f"{source.where(index)} {problem}" for index, problem in problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        yield f"… and {len(problems) - MAX_PROBLEMS} more lines like these"
    if dropped:
        yield f"data.unfit_prompts = drop: none of {source.name} is left; correct what the lines above name"


def _percentile(values: list[int], percent: int) -> int:
    return int(np.percentile(values, percent, method="inverted_cdf"))
