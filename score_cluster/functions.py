"""Reward functions that ship: pure, deterministic, one completion at a time (see score_cluster.rewards).

Verifiers and scores return more for better text; penalties return a number <= 0.
"""

import functools
from collections.abc import Mapping
from typing import Any, Literal

from score_cluster.rewards import needs


def exact_match(*, prompt: str, completion: str, metadata: Mapping[str, Any], field: str = "answer") -> float:
    """1 if the completion without surrounding white space is `metadata[field]`, else 0."""
    return float(completion.strip() == _expected(metadata, field))


def character_accuracy(*, prompt: str, completion: str, metadata: Mapping[str, Any], field: str = "answer") -> float:
    """Share of right characters in right places, in 0..1; a missing or a surplus character counts as a wrong one.

    A dense companion of `exact_match`: it tells a nearly right answer from a hopeless one.
    """
    given, expected = completion.strip(), _expected(metadata, field)
    places = max(len(given), len(expected))
    right = sum(a == b for a, b in zip(given, expected, strict=False))
    return right / places if places else 1.0


@needs("vaderSentiment", remedy="pip install vaderSentiment")
def sentiment(*, prompt: str, completion: str, metadata: Mapping[str, Any]) -> float:
    """Compound sentiment of English text in -1..1 by the VADER lexicon (Hutto and Gilbert 2014).

    A lexicon is hacked at once ("great great great"): join it with repetition and length penalties.
    """
    return float(_vader().polarity_scores(completion)["compound"])


def length_penalty(
    *,
    prompt: str,
    completion: str,
    metadata: Mapping[str, Any],
    limit: int = 500,
    per_unit: float = 0.001,
    unit: Literal["words", "characters"] = "words",
) -> float:
    """Minus `per_unit` for every word or character beyond `limit`."""
    if unit not in ("words", "characters"):
        raise ValueError(f"unit {unit!r} must be words or characters")
    length = len(completion.split()) if unit == "words" else len(completion)
    return -per_unit * max(0, length - limit)


def repetition_penalty(*, prompt: str, completion: str, metadata: Mapping[str, Any], ngram: int = 2) -> float:
    """Minus the share of word n-grams that repeat an earlier one, in -1..0; 0 for fewer than n words.

    Pairs by default: longer n-grams miss the shortest hacks of a lexicon. Case does not count.
    """
    if ngram < 1:
        raise ValueError(f"ngram {ngram} must be at least 1")
    words = completion.lower().split()
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    return len(set(grams)) / len(grams) - 1.0 if grams else 0.0


def length_window(
    *,
    prompt: str,
    completion: str,
    metadata: Mapping[str, Any],
    minimum: int,
    maximum: int,
    per_word: float = 0.05,
) -> float:
    """Minus `per_word` for every word below `minimum` or above `maximum`; 0 inside the window."""
    if not 0 <= minimum <= maximum:
        raise ValueError(f"length_window needs 0 <= minimum <= maximum, not {minimum} and {maximum}")
    words = len(completion.split())
    return -per_word * max(0, minimum - words, words - maximum)


def _expected(metadata: Mapping[str, Any], field: str) -> str:
    if field not in metadata:
        raise ValueError(f"the prompt's row has no field {field!r}; it has {', '.join(sorted(metadata)) or 'none'}")
    return str(metadata[field])


@functools.cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # optional, and it reads its lexicon

    return SentimentIntensityAnalyzer()
