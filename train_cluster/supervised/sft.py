"""The objective of supervised fine-tuning: the log-likelihood of the completions."""

from collections.abc import Sequence

import torch

from train_cluster import rows
from train_cluster.engine import TrainEngine
from train_cluster.supervised.loop import Sums


class CompletionLoss:
    """A `supervised.Objective` over examples: the mean negative log-likelihood of their trained tokens, nats a token.

    loss = −1/N · Σ log π(token),   N = trained tokens of the batch on all ranks
    """

    measures: tuple[str, ...] = ()

    def tokens(self, unit: rows.Sequence) -> int:
        return unit.fed

    def weight(self, unit: rows.Sequence) -> int:
        return unit.trained

    def sums(self, engine: TrainEngine, units: Sequence[rows.Sequence]) -> Sums:
        device = next(engine.module.parameters()).device
        row = rows.build_row(tuple(range(len(units))), units, device=device)
        logprobs_N, _ = engine.forward(**row.inputs())
        return Sums(loss=torch.where(row.response_mask, -logprobs_N, 0.0).sum())
