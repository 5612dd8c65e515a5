"""Losses of reward models. B pairs; scores are real numbers; only `chosen_B` and `rejected_B` carry a gradient."""

import torch
from torch.nn import functional as F  # noqa: N812


def preference_loss(
    chosen_B: torch.Tensor,
    rejected_B: torch.Tensor,
    margins_B: torch.Tensor,
    *,
    centring: float,
    flip_rate: float,
) -> torch.Tensor:
    """Loss [B] of the preferences, in nats, with what holds the scores near 0.

        x = r_c − r_r − m
        loss = ((1 − ε) · −log σ(x) − ε · −log σ(−x)) / (1 − 2ε) + centring · (r_c + r_r)²

    At ε = 0: Bradley–Terry with a margin, Touvron et al. 2023, arXiv 2307.09288, eq. 2. At ε > 0 its expectation over
    labels of which a share ε was flipped is the loss of the clean ones: Chowdhury et al. 2024, arXiv 2403.00409, rDPO.
    The last term is the regulariser of Eisenstein et al. 2023, arXiv 2312.09244. Margins are detached.
    """
    x_B = chosen_B - rejected_B - margins_B.detach()
    right_B, wrong_B = -F.logsigmoid(x_B), -F.logsigmoid(-x_B)
    preference_B = ((1 - flip_rate) * right_B - flip_rate * wrong_B) / (1 - 2 * flip_rate)
    return preference_B + centring * (chosen_B + rejected_B).square()


def length_slope(longer_B: torch.Tensor, *, iterations: int = 50) -> float:
    """What lengths alone tell of the preferences: w of P(chosen over rejected) = σ(w · longer), per token.

    longer_B: tokens of the chosen answer less those of the rejected. Maximum likelihood by Newton's method on the scaled
    differences, with a prior that counts as one pair, so that lengths which separate the pairs leave w finite.
    """
    spread = longer_B.double().square().mean().sqrt()
    if not spread > 0:
        return 0.0
    x_B = longer_B.double() / spread
    w = torch.zeros((), dtype=torch.float64)
    for _ in range(iterations):
        p_B = torch.sigmoid(w * x_B)
        slope = ((1 - p_B) * x_B).sum() - w
        curvature = (p_B * (1 - p_B) * x_B.square()).sum() + 1
        step = (slope / curvature).clamp(-1, 1)
        w = w + step
        if step.abs() < 1e-12:
            break
    return float(w / spread)


def length_margins(margins_B: torch.Tensor, longer_B: torch.Tensor, *, slope: float, penalty: float) -> torch.Tensor:
    """[B] margins that leave to the model what the lengths do not explain: m − penalty · slope · longer.

    Adding the logit of a frozen expert that sees the bias alone, and dropping it afterwards, is a product of experts:
    Clark et al. 2019, arXiv 1909.03683; for length in reward models Shen et al. 2023, arXiv 2310.05199. A pair
    that its length predicts has little loss left, so nothing is learnt from it but the rest.
    """
    return margins_B - penalty * slope * longer_B
