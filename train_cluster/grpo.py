"""Group-relative policy optimisation: the baseline is the group's own mean, one advantage a response."""

import torch

from train_cluster.advantages import group_normalised
from train_cluster.batch import TrainBatch
from train_cluster.config import GrpoConfig, KlEstimator
from train_cluster.engine import TrainEngine
from train_cluster.measures import Stopwatch
from train_cluster.pieces import Update, every_piece


class Grpo:
    """An `algorithm.Algorithm` that trains the policy alone."""

    def __init__(self, engine: TrainEngine, *, config: GrpoConfig, estimator: KlEstimator) -> None:
        self._engine, self._config, self._estimator = engine, config, estimator

    def policy_step(self, number: int) -> int:
        return number

    def credit(self, batch: TrainBatch, updates: list[Update], *, kl_coefficient: float, watch: Stopwatch) -> None:
        rewards_B = batch.rewards
        if kl_coefficient:
            rewards_B = rewards_B - kl_coefficient * self._kl_of_responses(batch, updates)
        advantages_B = group_normalised(rewards_B, batch.group_index, scale_by_std=self._config.scale_by_std)
        for piece in every_piece(updates):
            piece.advantages = piece.row.spread(advantages_B)

    def update(self, update: Update, *, watch: Stopwatch) -> None:
        """There is nothing beside the policy."""

    def report(self) -> None:
        return None

    def _kl_of_responses(self, batch: TrainBatch, updates: list[Update]) -> torch.Tensor:
        """[B] float64, nats."""
        local_B = torch.zeros_like(batch.rewards)
        for piece in every_piece(updates):
            if piece.row.members:
                members_N = torch.tensor(piece.row.members)[piece.row.segment.cpu()]
                local_B.index_add_(0, members_N, piece.kl(self._estimator).cpu())
        return self._engine.sum(local_B)
