"""Proximal policy optimisation: a critic's values are the baseline, one advantage a token."""

from collections import defaultdict

import torch

from train_cluster.actor import apply
from train_cluster.advantages import generalised, mean_and_std, token_rewards, whitened
from train_cluster.batch import TrainBatch
from train_cluster.config import KlEstimator, PpoConfig
from train_cluster.engine import TrainEngine
from train_cluster.losses import clipped_value_loss, token_mean
from train_cluster.measures import Stopwatch, Totals, explained_variance
from train_cluster.pieces import Piece, Update, every_piece
from train_cluster.report import CriticReport

_CREDITED = ("tokens", "advantage", "advantage_squared", "value", "return", "return_squared", "error", "error_squared")
"""What is summed over the trained tokens of a rank before the updates; error = return − value."""


class Ppo:
    """An `algorithm.Algorithm` that trains a critic beside the policy."""

    def __init__(self, critic: TrainEngine, *, config: PpoConfig, estimator: KlEstimator) -> None:
        self._critic, self._config, self._estimator = critic, config, estimator
        self._credited: dict[str, float] = {}
        self._made = defaultdict[str, float](float)

    def policy_step(self, number: int) -> int:
        return number - self._config.critic.warmup_steps

    def credit(self, batch: TrainBatch, updates: list[Update], *, kl_coefficient: float, watch: Stopwatch) -> None:
        self._made = defaultdict(float)
        sums = Totals()
        with watch.phase("values"), torch.no_grad():
            self._critic.module.eval()
            for piece in every_piece(updates):
                values_N = self._critic.forward(**piece.row.places())
                self._credit_piece(piece, values_N, batch, kl_coefficient=kl_coefficient, sums=sums)
        self._credited = sums.reduced(self._critic, _CREDITED)
        if self._config.whiten_advantages:
            mean, std = self._spread_of("advantage")
            for piece in every_piece(updates):
                assert piece.advantages is not None
                piece.advantages = whitened(piece.advantages, mean=mean, std=std)

    def _credit_piece(
        self, piece: Piece, values_N: torch.Tensor, batch: TrainBatch, *, kl_coefficient: float, sums: Totals
    ) -> None:
        row = piece.row
        penalties_N = torch.zeros_like(values_N, dtype=torch.float64)
        if kl_coefficient:
            penalties_N = kl_coefficient * piece.kl(self._estimator)
        rewards_N = token_rewards(row.spread(batch.rewards), penalties_N, row.segment)
        advantages_N = generalised(
            rewards_N, values_N, row.segment, gamma=self._config.gamma, gae_lambda=self._config.gae_lambda
        )
        returns_N = advantages_N + values_N.double()
        piece.advantages, piece.values, piece.returns = advantages_N.float(), values_N, returns_N.float()
        trained_N = row.response_mask.double()
        sums.add(tokens=trained_N.sum(), value=(values_N.double() * trained_N).sum())
        for name, numbers_N in (("advantage", advantages_N), ("return", returns_N), ("error", returns_N - values_N)):
            sums.add(**{name: (numbers_N * trained_N).sum()})
            sums.add(**{f"{name}_squared": (numbers_N.square() * trained_N).sum()})

    def update(self, update: Update, *, watch: Stopwatch) -> None:
        with watch.phase("critic"):
            self._critic.module.train()
            totals = Totals()
            for piece in update.pieces:
                assert piece.values is not None
                assert piece.returns is not None
                loss_N, clipped_N = clipped_value_loss(
                    self._critic.forward(**piece.row.places()),
                    piece.values,
                    piece.returns,
                    clip=self._config.critic.value_clip,
                )
                loss = token_mean(loss_N, piece.row.response_mask, num_trained_tokens=update.trained)
                self._critic.backward(self._config.critic.loss_coefficient * loss)
                totals.add(loss=loss.detach(), clipped=(clipped_N & piece.row.response_mask).sum())
            over_ranks = totals.reduced(self._critic, ("loss", "clipped"))
            norm = apply(self._critic, learning_rate=self._config.critic.learning_rate, model="critic")
        for name, value in {**over_ranks, "norm": norm, "count": 1, "tokens": update.trained}.items():
            self._made[name] += value

    def report(self) -> CriticReport:
        tokens, count = max(1.0, self._credited["tokens"]), max(1.0, self._made["count"])
        return CriticReport(
            loss=self._made["loss"] / count,
            clip_fraction=self._made["clipped"] / max(1.0, self._made["tokens"]),
            explained_variance=explained_variance(
                error_std=self._spread_of("error")[1], return_std=self._spread_of("return")[1]
            ),
            value_mean=self._credited["value"] / tokens,
            return_mean=self._credited["return"] / tokens,
            advantage_std=self._spread_of("advantage")[1],
            grad_norm=self._made["norm"] / count,
            learning_rate=self._config.critic.learning_rate,
            updates=int(self._made["count"]),
        )

    def _spread_of(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation over all trained tokens of the batch."""
        found = self._credited
        return mean_and_std(count=found["tokens"], total=found[name], squares=found[f"{name}_squared"])
