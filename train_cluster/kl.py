"""Distance to the reference policy: estimates per token, and the rule that adapts its coefficient."""

from typing import Literal

import torch

Estimator = Literal["k1", "k2", "k3"]

RAISE_ABOVE = 1.5
"""Times the target; the coefficient grows above it, and shrinks below target / 1.5."""
FACTOR = 1.5
BOUND = 10.0
"""The coefficient stays within initial / 10 .. 10 · initial."""


def estimate(logprobs_N: torch.Tensor, reference_N: torch.Tensor, *, estimator: Estimator) -> torch.Tensor:
    """Per-token estimate [N], nats, of KL(pi || ref) from a token sampled by pi; r = ref / pi.

        k1 = −log r            unbiased, of high variance, may be negative
        k2 = ½ (log r)²        biased, of low variance
        k3 = r − 1 − log r     unbiased, of low variance, never negative

    Schulman 2020, "Approximating KL divergence". The sum over a response's tokens estimates the KL of the response.
    They estimate the *value*. As a term of the loss, what matters is the expected gradient under pi, and that is not
    the gradient of the value (Tang and Munos 2025, arXiv 2506.09477; Liu et al. 2025, arXiv 2510.01555):

        k1   0: pure noise, no pull towards the reference at all
        k2   the gradient of KL(pi || ref), which is what one usually wants
        k3   the gradient of the other direction, KL(ref || pi); weak where pi has mass and ref has little

    So use k2 (or GRPO's customary k3) in the loss and k1 in the reward, never k1 in the loss. A term of the
    loss also credits each token with its own distance only, not with that of the tokens it leads to; and off the
    policy that sampled the tokens all of this is an approximation.
    """
    log_ratio_N = reference_N.detach() - logprobs_N
    if estimator == "k1":
        return -log_ratio_N
    if estimator == "k2":
        return 0.5 * log_ratio_N.square()
    return log_ratio_N.expm1() - log_ratio_N


def next_coefficient(value: float, *, kl: float, target: float, initial: float) -> float:
    """The coefficient of the next step, from the KL per response (nats) measured in this one.

    value × 1.5 when kl > 1.5 · target, value / 1.5 when kl < target / 1.5, kept within initial/10 .. 10 · initial. A
    stepwise form of the controller of Ziegler et al. 2019, arXiv 1909.08593, section 2.2.
    """
    if kl > RAISE_ABOVE * target:
        value *= FACTOR
    elif kl < target / RAISE_ABOVE:
        value /= FACTOR
    return min(max(value, initial / BOUND), initial * BOUND)
