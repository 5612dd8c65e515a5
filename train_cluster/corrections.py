"""Importance weights from the policy that sampled the tokens to the one that is trained on them."""

import math
from typing import Literal

import torch


def truncated_importance(
    proximal_N: torch.Tensor,
    behaviour_N: torch.Tensor,
    response_mask_N: torch.Tensor,
    segment_N: torch.Tensor,
    *,
    level: Literal["sequence", "token"],
    cap: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [N] and where the cap was hit [N] bool.

        token:     w_t = min(exp(proximal_t − behaviour_t), cap)
        sequence:  w_t = min(exp(sum over the sequence's trained tokens of proximal − behaviour), cap)

    Truncated importance sampling: Ionides 2008; for the gap between inference engine and trainer: Yao et al. 2025,
    "Your efficient RL framework secretly brings you off-policy RL training". At the token level a token's prefix keeps
    the behaviour's distribution (biased); the sequence level is exact below the cap, of higher variance.

    proximal_N, behaviour_N: [N] nats; segment_N: [N] which sequence a token belongs to, from 0. Where the mask is
    False the log-probs may be anything, and the weight is 1. Detached.
    """
    log_ratio_N = torch.where(response_mask_N, proximal_N.detach() - behaviour_N, 0.0)
    if level == "sequence" and segment_N.numel() > 0:
        sums = torch.zeros(int(segment_N.max()) + 1, dtype=log_ratio_N.dtype, device=log_ratio_N.device)
        log_ratio_N = torch.where(response_mask_N, sums.index_add(0, segment_N, log_ratio_N)[segment_N], 0.0)
    log_cap = math.log(cap)
    weights_N = torch.where(response_mask_N, log_ratio_N.clamp(max=log_cap).exp(), 1.0)
    return weights_N, response_mask_N & (log_ratio_N > log_cap)
