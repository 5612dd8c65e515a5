"""How much the responses to one prompt differ, in words and in reward: falls long before a policy that collapses looks it.

G responses to a prompt, N tokens of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experience.schema import Int32Array

LONGEST = 4
"""Longest n-gram that is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diversity:
    """Of one prompt's responses; a pure function of their tokens and totals."""

    unique: float
    """Distinct responses as a share of G."""
    distinct: tuple[float, ...]
    """[LONGEST] distinct n-grams as a share of all, n = 1 …; 1 where no response is so long."""
    spread: float
    """Standard deviation of the totals, over G."""
    equal: float
    """1 where all totals are equal, so that a group says nothing to learn from; 0 else, and where G = 1."""

    def measures(self) -> dict[str, float]:
        """As a sample's record names them."""
        return {
            "diversity.unique": self.unique,
            f"diversity.distinct_{LONGEST}": self.distinct[-1],
            "diversity.spread": self.spread,
            "diversity.equal": self.equal,
        }


def diversity(responses: Sequence[Int32Array], totals: Sequence[float]) -> Diversity:
    """Of G >= 1 responses [G][L] with their rewards [G]."""
    return Diversity(
        unique=len({tokens.tobytes() for tokens in responses}) / len(responses),
        distinct=distinct_ngrams(responses),
        spread=float(np.std(np.asarray(totals, dtype=np.float64))),
        equal=float(len(responses) > 1 and min(totals) == max(totals)),
    )


def distinct_ngrams(responses: Sequence[Int32Array]) -> tuple[float, ...]:
    """[LONGEST] distinct n-grams within these responses / all of them (Li et al. 2016, distinct-n).

    An n-gram that begins at token i is numbered by (number of the (n-1)-gram at i, token i + n - 1): exact, no hashing.
    """
    tokens_N = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in responses])
    response_N = np.repeat(np.arange(len(responses)), [len(tokens) for tokens in responses])
    _, tokens_N = np.unique(tokens_N, return_inverse=True)
    numbers, shares = tokens_N, []
    for n in range(1, LONGEST + 1):
        last = tokens_N[n - 1 :]
        if n > 1:
            numbers = numbers[: len(last)] * (len(tokens_N) + 1) + last
        whole = response_N[: len(last)] == response_N[n - 1 :]
        found, place = np.unique(numbers[whole], return_inverse=True)
        shares.append(len(found) / len(place) if len(place) else 1.0)
        numbers = np.zeros(len(last), dtype=np.int64)  # 0: crosses into the next response, and is never asked for
        numbers[whole] = place
    return tuple(shares)
