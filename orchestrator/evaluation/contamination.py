"""Held-out prompts that training has seen: shared n-grams of words, counted exactly."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe
from orchestrator.data.files import find_files
from orchestrator.data.rows import parse_row
from orchestrator.data.source import open_sources

NGRAM_WORDS = 8
THRESHOLD = 0.8
"""A prompt that shares more of its 8-grams counts as seen."""


def seen(prompts: Sequence[str], training: Iterable[str]) -> list[int]:
    """Indices of the prompts that share more than `THRESHOLD` of their 8-grams of words with all training texts together.

    A prompt of fewer words is one gram of its own, which is looked for among texts as short. Case does not count.
    """
    of_prompts = [_grams(text) for text in prompts]
    wanted = set().union(*of_prompts) if of_prompts else set()
    found = {gram for text in training for gram in _grams(text) if gram in wanted}
    return [index for index, grams in enumerate(of_prompts) if grams and len(grams & found) / len(grams) > THRESHOLD]


def training_texts(recipe: Recipe) -> Iterator[str]:
    """The prompts of the recipe, and every text in the files of its earlier stages. ValueError, OSError: unreadable."""
    for source in open_sources(recipe.data):
        for index in source.good:
            row = source.at(int(index))
            yield from ([row.text] if row.turns is None else [str(turn.get("content")) for turn in row.turns])
    if recipe.sft is not None:
        yield from _stage_texts(recipe.sft.path, split=recipe.sft.split, field="sft.path")
    if recipe.reward is not None:
        yield from _stage_texts(recipe.reward.path, split=None, field="reward.path")


def _stage_texts(path: str, *, split: str | None, field: str) -> Iterator[str]:
    """Every text in every row. ValueError: it is no JSON lines."""
    found = find_files(path, split=split, field=field)
    if found.kind != "jsonl":
        raise ValueError(f"{field} = {path}: holds {found.kind}, and only JSONL of earlier stages is looked through")
    for file in found.files:
        with file.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield from _strings(_parsed(line, file))


def _parsed(line: bytes, file: Path) -> dict[str, Any]:
    try:
        return parse_row(line)
    except ValueError as error:
        raise ValueError(f"{file}: a line {error}") from error


def warning(recipe: Recipe, prompts: Sequence[str]) -> str:
    """One line about the prompts that training has seen, or why that cannot be told; "" where there are none."""
    try:
        found = seen(prompts, training_texts(recipe))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        return f"whether training has seen the prompts cannot be told: {reason[:300]}"
    if not found:
        return ""
    first = json.dumps(prompts[found[0]][:80])
    return (
        f"{len(found)} of {len(prompts)} prompts share more than {THRESHOLD:.0%} of their {NGRAM_WORDS}-grams with the "
        f"training data (the first: {first}); what is said of them is no held-out result"
    )


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    if len(words) <= NGRAM_WORDS:
        return {tuple(words)} if words else set()
    return {tuple(words[at : at + NGRAM_WORDS]) for at in range(len(words) - NGRAM_WORDS + 1)}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _strings(child)
