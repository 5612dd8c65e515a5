"""One reward from the members of an ensemble, and how far they disagree: pure functions."""

from typing import Literal

import numpy as np
import numpy.typing as npt

# M members, N answers.

Combine = Literal["mean", "min", "mean_minus_std"]


def combined(scores_MN: npt.NDArray[np.float64], *, how: Combine, std_factor: float) -> npt.NDArray[np.float64]:
    """[N] the mean, the least, or mean − std_factor · std of the members; std has the denominator M.

    Coste et al. 2023, arXiv 2310.02743: the least is their worst-case optimisation; their uncertainty-weighted one takes a
    multiple of the variance off, ours of the standard deviation, which has the unit of a reward.
    """
    if how == "min":
        return scores_MN.min(axis=0)
    mean_N = scores_MN.mean(axis=0)
    return mean_N - std_factor * disagreement(scores_MN) if how == "mean_minus_std" else mean_N


def disagreement(scores_MN: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[N] standard deviation over the members, denominator M: 0 where all agree."""
    return scores_MN.std(axis=0)
