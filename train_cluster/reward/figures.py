"""What is worth knowing of a reward model: how often it is right on held-out pairs, how sure it may be, what it leans on.

Numbers in, numbers out; a trailing B marks one value a held-out pair, M one a member of an ensemble.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HEALTHY = (0.65, 0.75)
"""Held-out accuracy: people agree with one another about that often; beyond it a model has found something else."""
LENGTH_CORRELATION = 0.2
"""Absolute; above it answers are rated by their length to a degree that a policy will find."""
BINS = 10
"""Of the calibration plot, from 0.5 to 1."""
Z_95 = 1.959964
"""Of the normal distribution."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Held-out pairs and what a model says of them, in one order."""

    chosen: Floats
    """[B] score of the preferred answer"""
    rejected: Floats
    """[B] of the other"""
    chosen_tokens: Floats
    """[B] length of the answer, its end included"""
    rejected_tokens: Floats
    """[B]"""
    categories: tuple[str, ...]
    """[B]; "" where a row has none"""

    @property
    def right(self) -> Floats:
        """1 where the chosen answer scores higher, 1/2 where both score alike."""
        return correct(self.chosen, self.rejected)


def correct(better_B: Floats, worse_B: Floats) -> Floats:
    return (better_B > worse_B) + 0.5 * (better_B == worse_B)


def quality(held_out: HeldOut) -> dict[str, Any]:
    """The part of a card that held-out pairs speak for; JSON."""
    right = held_out.right
    accuracy, interval = share(right)
    return {
        "pairs": len(right),
        "accuracy": accuracy,
        "accuracy_95": interval,
        "verdict": verdict(accuracy, interval),
        "categories": _by_category(held_out),
        "calibration": calibration(held_out.chosen - held_out.rejected),
        "margins": histogram(held_out.chosen - held_out.rejected),
        "scores": _spread(held_out),
        "length": length_bias(held_out),
    }


def share(right: Floats) -> tuple[float, list[float]]:
    """The mean, and its 95 % interval by Wilson 1927, which holds for small samples and for shares near 0 and 1.

    (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    """
    n, p = len(right), float(np.mean(right))
    centre = p + Z_95**2 / (2 * n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
    return p, [(centre - half) / (1 + Z_95**2 / n), (centre + half) / (1 + Z_95**2 / n)]


def verdict(accuracy: float, interval: Sequence[float]) -> dict[str, str]:
    """In a word, and what to do about it."""
    low, high = HEALTHY
    if interval[0] <= 0.5:
        return {
            "word": "weak",
            "advice": "it may be no better than a coin: look at pairs by hand, at how far annotators agree, at the learning "
            "rate, and whether the base model can do the task at all; or hold out more pairs",
        }
    if accuracy < low:
        return {
            "word": "weak",
            "advice": f"below {low:.0%}: more pairs, cleaner labels (reward.min_agreement) or a larger base model",
        }
    if accuracy > high:
        return {
            "word": "suspicious",
            "advice": f"above {high:.0%}, where people themselves rarely agree: look for near copies of training prompts among "
            "the held-out ones, for a difference of style or length that gives the chosen answer away, and for labels that "
            "a rule or a model made (then high accuracy is to be expected)",
        }
    return {"word": "healthy", "advice": f"within {low:.0%} to {high:.0%}, about as often as people agree"}


def calibration(difference_B: Floats) -> dict[str, Any]:
    """Whether the model is as often right as it says: P = σ(score difference) of the answer that it prefers, by bins.

    ECE = Σ n_b/B · |right_b − said_b| over the bins: Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599, eq. 3.
    """
    said_B = 1 / (1 + np.exp(-np.abs(difference_B)))
    right = (difference_B > 0) + 0.5 * (difference_B == 0)
    index_B = np.minimum(((said_B - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins: list[dict[str, Any]] = []
    for k in range(BINS):
        inside = index_B == k
        if inside.any():
            observed, interval = share(right[inside])
            said = float(said_B[inside].mean())
            bins.append({"pairs": int(inside.sum()), "said": said, "observed": observed, "observed_95": interval})
    error = sum(one["pairs"] * abs(one["observed"] - one["said"]) for one in bins) / len(difference_B)
    return {"bins": bins, "expected_calibration_error": error}


def histogram(values: Floats, *, bins: int = 30) -> dict[str, Any]:
    """Counts between equally spaced edges around all values."""
    spread = max(float(np.abs(values).max(initial=0.0)), 1e-6)
    counts, edges = np.histogram(values, bins=bins, range=(-spread, spread))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def length_bias(held_out: HeldOut) -> dict[str, Any]:
    """How far scores follow the lengths of the answers, and how far lengths alone would get."""
    scores = np.concatenate([held_out.chosen, held_out.rejected])
    tokens = np.concatenate([held_out.chosen_tokens, held_out.rejected_tokens])
    pearson = correlation(scores, tokens)
    longer = float(correct(held_out.chosen_tokens, held_out.rejected_tokens).mean())
    warning = ""
    if abs(pearson) > LENGTH_CORRELATION:
        direction = "longer" if pearson > 0 else "shorter"
        warning = (
            f"scores follow length (correlation {pearson:+.2f}, more than {LENGTH_CORRELATION}): a policy will write {direction} "
            "answers; balance the lengths of the pairs, or set reward.length_penalty=1"
        )
    return {
        "pearson": pearson,
        "pearson_of_differences": correlation(
            held_out.chosen - held_out.rejected, held_out.chosen_tokens - held_out.rejected_tokens
        ),
        "chosen_is_longer": longer,
        "mean_tokens": {
            "chosen": float(held_out.chosen_tokens.mean()),
            "rejected": float(held_out.rejected_tokens.mean()),
        },
        "warning": warning,
    }


def correlation(a_N: Floats, b_N: Floats) -> float:
    """Pearson's; 0 where one of them does not vary."""
    if len(a_N) < 2 or not np.ptp(a_N) or not np.ptp(b_N):
        return 0.0
    return float(np.corrcoef(a_N, b_N)[0, 1])


def agreement(differences_MB: Floats) -> dict[str, Any]:
    """How far M members of an ensemble agree on which answer of B pairs is better: where they do not, none knows.

    differences_MB: score of the chosen answer less that of the other; scores themselves have no common zero.
    """
    sides_MB = np.sign(differences_MB)
    matrix = [[float((a == b).mean()) for b in sides_MB] for a in sides_MB]
    pairs = [matrix[i][j] for i in range(len(matrix)) for j in range(i)]
    return {
        "matrix": matrix,
        "mean": float(np.mean(pairs)),
        "unanimous": float((sides_MB == sides_MB[0]).all(axis=0).mean()),
        "difference_std": float(differences_MB.std(axis=0).mean()),
        "difference_mean_abs": float(np.abs(differences_MB.mean(axis=0)).mean()),
    }


def mean_of(members: Sequence[HeldOut]) -> HeldOut:
    """The ensemble that takes the mean of its members' scores."""
    first = members[0]
    return HeldOut(
        chosen=np.mean([one.chosen for one in members], axis=0),
        rejected=np.mean([one.rejected for one in members], axis=0),
        chosen_tokens=first.chosen_tokens,
        rejected_tokens=first.rejected_tokens,
        categories=first.categories,
    )


def _by_category(held_out: HeldOut) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    names = sorted(set(held_out.categories) - {""})
    for name in names:
        inside = np.array([category == name for category in held_out.categories])
        accuracy, interval = share(held_out.right[inside])
        found[name] = {"pairs": int(inside.sum()), "accuracy": accuracy, "accuracy_95": interval}
    return found


def _spread(held_out: HeldOut) -> dict[str, float]:
    scores = np.concatenate([held_out.chosen, held_out.rejected])
    return {
        "mean": float(scores.mean()),
        "std": float(scores.std()),
        "mean_chosen": float(held_out.chosen.mean()),
        "mean_rejected": float(held_out.rejected.mean()),
    }
