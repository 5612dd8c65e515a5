"""The output layer that gives log-probs of targets in place of logits of the whole vocabulary."""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

Entropy = Literal["none", "value", "gradient"]
"""Zeros; detached; or as a term of the loss, whose graph holds one more [N, V] of a chunk."""

CHUNK_LOGITS = 2**26
"""Logits alive at once, 256 MiB in float32. Below it nothing is recomputed in the backward pass."""


class LogprobHead(nn.Module):
    """Takes the place of `lm_head`, with its parameters under its names (tied ones stay tied).

    The chunks are cut inside this one call: ZeRO-3 gathers the weight once per call of a module, so the number of
    calls must not depend on how many tokens a rank has.
    """

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(
        self, hidden_NE: torch.Tensor, targets_N: torch.Tensor, temperature_N: torch.Tensor, entropy: Entropy
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log softmax(W h / temperature)[target] [N], and the entropy [N]."""
        V = self.weight.shape[0]
        size = max(1, CHUNK_LOGITS // V)
        if hidden_NE.shape[0] <= size:
            return self._chunk(hidden_NE, targets_N, temperature_N, entropy)
        chunks = zip(hidden_NE.split(size), targets_N.split(size), temperature_N.split(size), strict=True)
        parts = [checkpoint(self._chunk, *chunk, entropy, use_reentrant=False) for chunk in chunks]
        return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropies for _, entropies in parts])

    def _chunk(
        self, hidden_NE: torch.Tensor, targets_N: torch.Tensor, temperature_N: torch.Tensor, entropy: Entropy
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits_NV = F.linear(hidden_NE, self.weight, self.bias).float().div_(temperature_N[:, None])
        normaliser_N = logits_NV.logsumexp(-1)
        logprobs_N = logits_NV.gather(-1, targets_N[:, None]).squeeze(-1) - normaliser_N
        if entropy == "none":
            return logprobs_N, torch.zeros_like(logprobs_N, requires_grad=False)
        with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
            probs_NV = (logits_NV - normaliser_N[:, None]).exp()
            entropy_N = normaliser_N - (probs_NV * logits_NV).sum(-1)
        return logprobs_N, entropy_N
