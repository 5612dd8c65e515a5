"""The demo's gold preference over remarks: it labels the pairs and judges the result; reinforcement never sees it.

value(text) = 4 · compound(text) - 0.7 · repeats - 0.2 · (words beyond 24) - 0.4 · (words short of 12) - 2 · [no end]

`compound` in -1..1 is VADER's (Hutto and Gilbert 2014): human ratings of words, summed with negations and boosters and
squashed. A word of feeling or substance that comes again is a repeat, so that "great great great" is worth less than "great".
"""

from collections import Counter
from functools import cache
from typing import Any

from recipes.words import END, words

COMPOUND_WEIGHT = 4.0
"""Of a sum that runs from -1 to 1: from damnation to praise weighs as much as eleven repeats."""
REPEAT_PENALTY = 0.7
LONG_WORDS, LONG_PENALTY = 24, 0.2
"""Beyond these a remark rambles; the penalty is per word."""
SHORT_WORDS, SHORT_PENALTY = 12, 0.4
UNFINISHED_PENALTY = 2.0
FREE_WORDS = frozenset(
    words("the a an was were it we i they had and not what , . : that all at so very is seemed found thought")
)
"""May come as often as grammar wants."""


def value(text: str) -> float:
    """Of one remark, without its opening; higher is better. Any text has a value, the empty one too."""
    said = words(text.lower())
    compound = float(_analyser().polarity_scores(text)["compound"])
    repeats = sum(count - 1 for word, count in Counter(said).items() if word not in FREE_WORDS)
    length = sum(word not in (END, ",") for word in said)
    return (
        COMPOUND_WEIGHT * compound
        - REPEAT_PENALTY * repeats
        - LONG_PENALTY * max(0, length - LONG_WORDS)
        - SHORT_PENALTY * max(0, SHORT_WORDS - length)
        - UNFINISHED_PENALTY * (not said or said[-1] != END)
    )


def score(*, prompt: str, completion: str, metadata: dict[str, Any]) -> float:
    """`value` as a judge of `headrace eval`."""
    return value(completion)


@cache
def _analyser() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # reads the lexicon: some 30 ms

    return SentimentIntensityAnalyzer()
