"""Losses of policy and critic, per token. N trained tokens; log-probs in nats; only the first argument carries a gradient."""

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


def clipped_value_loss(
    values_N: torch.Tensor, old_values_N: torch.Tensor, returns_N: torch.Tensor, *, clip: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss [N] of the critic and where it was clipped [N] bool (its gradient is 0 there).

        loss = ½ max((V − R)², (V_old + clip(V − V_old, −clip, clip) − R)²);   clip None: ½ (V − R)²

    The code of Schulman et al. 2017 has it (OpenAI baselines, ppo2), the paper does not: a value may move no further in
    one step than `clip`, in units of reward. What is known of it: Engstrom et al. 2020, arXiv 2005.12729, find that it
    makes no difference by itself; Andrychowicz et al. 2021, arXiv 2006.05990, section 3.2, that it hurts whatever the
    clip. It stays customary in RLHF, where rewards are scaled to a few units. Old values and returns are detached.
    """
    old_values_N, returns_N = old_values_N.detach(), returns_N.detach()
    plain_N = (values_N - returns_N).square()
    if clip is None:
        return 0.5 * plain_N, torch.zeros_like(plain_N, dtype=torch.bool)
    bounded_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
    held_N = (bounded_N - returns_N).square()
    return 0.5 * torch.maximum(plain_N, held_N), (held_N > plain_N) & (bounded_N != values_N)


def token_mean(values_N: torch.Tensor, response_mask_N: torch.Tensor, *, num_trained_tokens: int) -> torch.Tensor:
    """sum of the trained values / num_trained_tokens (DAPO, section 3.3).

    The denominator counts the tokens of all rows and ranks of the update, so that the sum over them is the mean over
    one big batch.
    """
    return torch.where(response_mask_N, values_N, 0.0).sum() / num_trained_tokens
