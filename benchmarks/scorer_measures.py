"""What a precision does to scores and log-probs: numbers in, numbers out. N answers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def pairwise_agreement(exact_N: Floats, near_N: Floats) -> float:
    """Share of all N (N − 1) / 2 pairs of answers that both put in the same order; exact ties are left out."""
    first, second = np.triu_indices(len(exact_N), k=1)
    exact, near = exact_N[first] - exact_N[second], near_N[first] - near_N[second]
    told = exact != 0
    return float((np.sign(exact[told]) == np.sign(near[told])).mean())


def correlation(exact_N: Floats, near_N: Floats) -> float:
    """Pearson's."""
    return float(np.corrcoef(exact_N, near_N)[0, 1])


def accuracy(scores_N: Floats) -> float:
    """Of answers that stand as chosen, rejected, chosen, rejected …"""
    return float((scores_N[0::2] > scores_N[1::2]).mean())


def logprob_error(exact: Sequence[npt.NDArray[np.float32]], near: Sequence[npt.NDArray[np.float32]]) -> float:
    """Mean |difference| of a token's log-prob, nats."""
    return float(np.abs(np.concatenate(near) - np.concatenate(exact)).mean())


def kl_per_response(exact: Sequence[npt.NDArray[np.float32]], near: Sequence[npt.NDArray[np.float32]]) -> float:
    """Mean over responses of the k3 sum, nats: what the run exports as noise floor, were `exact` the policy's."""
    sums = []
    for policy, reference in zip(exact, near, strict=True):
        difference = (reference - policy).astype(np.float64)
        sums.append(float((np.expm1(difference) - difference).sum()))
    return float(np.mean(sums))
