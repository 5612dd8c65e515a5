"""How much the responses to one prompt differ, in words and in reward: falls long before a policy that collapses looks it.

G responses to a prompt, N tokens of all of them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from experience.schema import Int32Array

LONGEST = 4
"""Longest n-gram that is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Among:
    """How G > 1 responses to one prompt differ from one another."""

    unique: float
    """Distinct responses as a share of G."""
    spread: float
    """Standard deviation of the totals, over G."""
    equal: float
    """1 where all totals are equal, so that a group says nothing to learn from; 0 else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diversity:
    """Of one prompt's responses; a pure function of their tokens and totals."""

    distinct: tuple[float, ...]
    """[LONGEST] distinct n-grams as a share of all, n = 1 …; 1 where no response is so long."""
    among: Among | None
    """None where G = 1: one response differs from none."""

    def measures(self) -> dict[str, float]:
        """As a sample's record names them."""
        measures = {f"diversity.distinct_{LONGEST}": self.distinct[-1]}
        if self.among is not None:
            measures |= {f"diversity.{name}": value for name, value in asdict(self.among).items()}
        return measures


def diversity(responses: Sequence[Int32Array], totals: Sequence[float]) -> Diversity:
    """Of G >= 1 responses [G][L] with their rewards [G]."""
    several = len(responses) > 1
    return Diversity(distinct=distinct_ngrams(responses), among=_among(responses, totals) if several else None)


def _among(responses: Sequence[Int32Array], totals: Sequence[float]) -> Among:
    return Among(
        unique=len({tokens.tobytes() for tokens in responses}) / len(responses),
        spread=float(np.std(np.asarray(totals, dtype=np.float64))),
        equal=float(min(totals) == max(totals)),
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
