"""The arithmetic of a comparison: pure functions of numbers and words.

# P prompts, S samples a prompt, R resamples
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

Z95 = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


def win_share(first: Sequence[float], second: Sequence[float], *, margin: float = 0.0) -> float:
    """Chance that a random answer of the second beats a random one of the first, ties half: [S1], [S2] -> 0..1.

    mean over all pairs of 1[b - a > margin] + 1/2 1[|b - a| <= margin]: the Mann-Whitney statistic over S1 S2.
    """
    difference = np.asarray(second, np.float64)[None, :] - np.asarray(first, np.float64)[:, None]
    return float(np.mean((difference > margin) + 0.5 * (np.abs(difference) <= margin)))


def tie_share(first: Sequence[float], second: Sequence[float], *, margin: float = 0.0) -> float:
    """Share of pairs whose scores are no further apart than `margin`: [S1], [S2] -> 0..1."""
    difference = np.asarray(second, np.float64)[None, :] - np.asarray(first, np.float64)[:, None]
    return float(np.mean(np.abs(difference) <= margin))


def bootstrap_interval(values_P: Sequence[float], *, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over prompts (Efron 1979), whole prompts drawn with replacement.

    values_P: [P] one number a prompt, so that a prompt's samples stay together (the cluster bootstrap).
    """
    values = np.asarray(values_P, np.float64)
    generator = np.random.Generator(np.random.PCG64(seed))
    means_R = np.array([values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
    low, high = np.quantile(means_R, [0.025, 0.975])
    return float(low), float(high)


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided p-value of `wins` against `losses`, ties left out: under H0 wins ~ Binomial(n, 1/2).

    min(1, 2 sum_{i <= min(wins, losses)} C(n, i) / 2^n); 1 where n = 0.
    """
    count = wins + losses
    tail = sum(math.comb(count, i) for i in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**count)) if count else 1.0


def wilson_interval(right: float, count: int) -> tuple[float, float]:
    """95 % score interval of a binomial share (Wilson 1927): it stays inside 0..1 where the normal one does not."""
    z2 = Z95**2
    centre = (right + z2 / 2) / (count + z2)
    half = Z95 * math.sqrt(right * (count - right) / count + z2 / 4) / (count + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that of k samples one is right, without bias: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, eq. 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} cannot be estimated from {samples} samples; take at least {max(k, 1)}")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def distinct_ngrams(texts: Sequence[str], *, n: int) -> float:
    """Share of different word n-grams among all of all texts (Li et al. 2016): falls when answers become alike.

    It falls with the amount of text as well: compare equal numbers of answers of like length.
    """
    words = [text.lower().split() for text in texts]
    grams = [tuple(line[i : i + n]) for line in words for i in range(len(line) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def unique_share(texts: Sequence[str]) -> float:
    """Share of different texts among a prompt's answers."""
    return len(set(texts)) / len(texts)


def quantiles(values: Sequence[float], shares: Sequence[float]) -> tuple[float, ...]:
    """Values that exist (inverted empirical distribution), one a share."""
    return tuple(float(one) for one in np.quantile(np.asarray(values, np.float64), shares, method="inverted_cdf"))


def grouped(labels: Sequence[str]) -> dict[str, list[int]]:
    """{label: indices}, labels sorted."""
    found: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        found.setdefault(label, []).append(index)
    return dict(sorted(found.items()))


def mean_by_prompt(rows: Sequence[Sequence[float]]) -> list[float]:
    """[P][S] -> [P]"""
    return [float(np.mean(row)) for row in rows]
