"""Advantages from rewards. B samples of a batch, each a member of one group; N trained tokens of a row, each of one
sequence (its segment, ascending from 0)."""

import math

import torch


def group_normalised(
    rewards_B: torch.Tensor, group_index_B: torch.Tensor, *, scale_by_std: bool, epsilon: float = 1e-6
) -> torch.Tensor:
    """Reward relative to the other answers to the same prompt.

        A_i = (r_i − mean_g(r)) / (std_g(r) + epsilon)        GRPO: Shao et al. 2024, arXiv 2402.03300, section 4.1.2
        A_i =  r_i − mean_g(r)                                Dr. GRPO: Liu et al. 2025, arXiv 2503.20783, section 3.2

    rewards_B: [B]; group_index_B: [B] from 0, groups may differ in size. Returns [B] float64. std is the sample one
    (denominator size − 1). Groups of equal rewards, and groups of one, get exactly 0.
    """
    if rewards_B.shape != group_index_B.shape or rewards_B.dim() != 1:
        raise ValueError(f"rewards {tuple(rewards_B.shape)} and group index {tuple(group_index_B.shape)} must be [B]")
    if rewards_B.numel() == 0:
        return rewards_B.double()
    groups = int(group_index_B.max()) + 1
    zeros_N = torch.zeros(groups, dtype=torch.float64)
    size_N = zeros_N.index_add(0, group_index_B, torch.ones_like(rewards_B, dtype=torch.float64))
    # Shifted by one member of the group first: equal rewards then cancel to 0, whatever their binary fractions.
    first_N = torch.zeros_like(zeros_N).index_copy(0, group_index_B.flip(0), rewards_B.double().flip(0))
    shifted_B = rewards_B.double() - first_N[group_index_B]
    mean_N = zeros_N.index_add(0, group_index_B, shifted_B) / size_N
    centred_B = shifted_B - mean_N[group_index_B]
    if not scale_by_std:
        return centred_B
    variance_N = zeros_N.index_add(0, group_index_B, centred_B.square()) / (size_N - 1).clamp(min=1)
    return centred_B / (variance_N.sqrt()[group_index_B] + epsilon)


def token_rewards(totals_N: torch.Tensor, penalties_N: torch.Tensor, segment_N: torch.Tensor) -> torch.Tensor:
    """[N] float64: minus the penalty at each token, plus the sequence's total at its last trained one.

        r_t = −penalty_t + total · [t is the last]        Ziegler et al. 2019, arXiv 1909.08593, section 2.1

    totals_N: the total of the sequence that a token belongs to.
    """
    return torch.where(_last(segment_N), totals_N.double(), 0.0) - penalties_N.double()


def generalised(
    rewards_N: torch.Tensor, values_N: torch.Tensor, segment_N: torch.Tensor, *, gamma: float, gae_lambda: float
) -> torch.Tensor:
    """Generalised advantage estimation over the trained tokens of each sequence, [N] float64.

        delta_t = r_t + gamma · V_t+1 − V_t,    A_t = delta_t + gamma · lambda · A_t+1

    Schulman et al. 2016, arXiv 1506.02438, eq. 16. V_t is the value before token t; after the last trained token value and
    advantage are 0, also where the answer was cut off by length. Tokens in between that are not trained are passed
    over: the next trained one follows. Detached; the returns that a critic learns are A_t + V_t.
    """
    if not rewards_N.shape == values_N.shape == segment_N.shape:
        shapes = ", ".join(str(tuple(one.shape)) for one in (rewards_N, values_N, segment_N))
        raise ValueError(f"rewards, values and segments must all be [N], not {shapes}")
    values_N = values_N.detach().double()
    next_N = torch.where(_last(segment_N), 0.0, values_N.roll(-1))
    delta_N = rewards_N.double() + gamma * next_N - values_N
    counts_S = torch.bincount(segment_N)
    place_N = torch.arange(len(segment_N), device=segment_N.device) - (counts_S.cumsum(0) - counts_S)[segment_N]
    delta_SL = delta_N.new_zeros(len(counts_S), int(counts_S.max()) if len(counts_S) else 0)
    delta_SL[segment_N, place_N] = delta_N
    advantages_SL, following_S = torch.empty_like(delta_SL), delta_SL.new_zeros(len(counts_S))
    for t in reversed(range(delta_SL.shape[1])):  # behind the end of a shorter sequence it stays 0
        following_S = advantages_SL[:, t] = delta_SL[:, t] + gamma * gae_lambda * following_S
    return advantages_SL[segment_N, place_N]


def mean_and_std(*, count: float, total: float, squares: float) -> tuple[float, float]:
    """Of `count` numbers of which the sum and the sum of squares are known; the std has the denominator `count`."""
    mean = total / max(1.0, count)
    return mean, math.sqrt(max(0.0, squares / max(1.0, count) - mean**2))


def whitened(advantages_N: torch.Tensor, *, mean: float, std: float, epsilon: float = 1e-8) -> torch.Tensor:
    """(A − mean) / (std + epsilon), [N]; mean and std are those of all trained tokens of the batch, on all ranks."""
    return (advantages_N - mean) / (std + epsilon)


def _last(segment_N: torch.Tensor) -> torch.Tensor:
    """[N] bool: the last of its sequence."""
    ends = torch.ones_like(segment_N[:1], dtype=torch.bool)
    return torch.cat([segment_N[1:] != segment_N[:-1], ends])
