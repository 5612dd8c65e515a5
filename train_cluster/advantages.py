"""Advantages from rewards. B samples of a batch, each a member of one group."""

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
