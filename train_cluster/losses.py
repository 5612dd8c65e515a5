"""Policy losses, per token. N trained tokens; everything in nats; only `logprobs_N` carries a gradient."""

import torch


def clipped_surrogate(
    logprobs_N: torch.Tensor,
    proximal_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss [N] and where it was clipped [N] bool (its gradient is 0 there).

        r = exp(logprobs − proximal),   loss = −min(r · A, clip(r, 1 − clip_low, 1 + clip_high) · A)

    PPO: Schulman et al. 2017, arXiv 1707.06347, eq. 7; clip_high > clip_low is DAPO's clip-higher: Yu et al. 2025,
    arXiv 2503.14476, section 3.1. Proximal log-probs and advantages are detached.
    """
    advantages_N = advantages_N.detach()
    ratio_N = (logprobs_N - proximal_logprobs_N.detach()).exp()
    clipped_ratio_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    loss_N = -torch.minimum(ratio_N * advantages_N, clipped_ratio_N * advantages_N)
    too_high_N = (advantages_N > 0) & (ratio_N > 1 + clip_high)
    too_low_N = (advantages_N < 0) & (ratio_N < 1 - clip_low)
    return loss_N, too_high_N | too_low_N


def decoupled_surrogate(
    logprobs_N: torch.Tensor,
    proximal_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    weights_N: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The clipped surrogate around the proximal policy, weighted back to it from the behaviour policy.

        loss = w · clipped_surrogate,   w = pi_proximal / pi_behaviour, truncated (corrections.truncated_importance)

    Decoupled PPO: Hilton et al. 2021, arXiv 2110.00641, section 3; as used for stale samples: AReaL, Fu et al. 2025,
    arXiv 2505.24298, eq. 5. The weights are detached.
    """
    loss_N, clipped_N = clipped_surrogate(
        logprobs_N, proximal_logprobs_N, advantages_N, clip_low=clip_low, clip_high=clip_high
    )
    return weights_N.detach() * loss_N, clipped_N


def token_mean(values_N: torch.Tensor, response_mask_N: torch.Tensor, *, num_trained_tokens: int) -> torch.Tensor:
    """sum of the trained values / num_trained_tokens (DAPO, section 3.3).

    The denominator counts the tokens of all rows and ranks of the update, so that the sum over them is the mean over
    one big batch.
    """
    return torch.where(response_mask_N, values_N, 0.0).sum() / num_trained_tokens
