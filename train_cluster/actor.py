"""The policy's side of a step: its log-probs at the start, and its updates whatever the advantages come from."""

import math
from collections import defaultdict

import torch

from experience.schema import Controls
from train_cluster import kl
from train_cluster.config import TrainingConfig
from train_cluster.corrections import truncated_importance
from train_cluster.engine import TrainEngine
from train_cluster.losses import decoupled_surrogate, token_mean
from train_cluster.measures import Totals
from train_cluster.pieces import Piece, Update, every_piece


class Actor:
    """Trains the policy. `observed` sums what the start of a step shows, `made` what its updates do."""

    def __init__(self, engine: TrainEngine, *, config: TrainingConfig) -> None:
        self._engine, self._config = engine, config
        self._kl = config.kl_in_force

    def needs_proximal_pass(self, updates: int) -> bool:
        """False where the training pass itself gives the log-probs of the policy at the start of a step of so many updates."""
        return updates > 1 or self._kl.where == "reward" or bool(self._engine.module.has_dropout)

    def proximal_pass(self, updates: list[Update], observed: Totals) -> None:
        """(collective) Without gradient and dropout."""
        self._engine.module.eval()
        with torch.no_grad():
            for piece in every_piece(updates):
                proximal_N, entropy_N = self._engine.forward(**piece.row.inputs(), entropy="value")
                self._observe(piece, proximal_N, entropy_N, observed)

    def update(
        self,
        update: Update,
        *,
        controls: Controls,
        kl_coefficient: float,
        learning_rate: float,
        observed: Totals,
        made: defaultdict[str, float],
    ) -> None:
        """(collective) One optimizer call. FloatingPointError: the gradient is not finite."""
        self._engine.module.train()
        totals = Totals()
        for piece in update.pieces:
            first = piece.proximal is None
            bonus = self._config.algorithm.entropy_coefficient > 0
            logprobs_N, entropy_N = self._engine.forward(
                **piece.row.inputs(), entropy="gradient" if bonus else "value" if first else "none"
            )
            if first:
                self._observe(piece, logprobs_N, entropy_N, observed)
            loss_N, clipped_N = self._loss(piece, logprobs_N, entropy_N, controls, kl_coefficient)
            loss = token_mean(loss_N, piece.row.response_mask, num_trained_tokens=update.trained)
            self._engine.backward(loss)
            totals.add(loss=loss.detach(), clipped=(clipped_N & piece.row.response_mask).sum())
        over_ranks = totals.reduced(self._engine, ("loss", "clipped"))
        norm = apply(self._engine, learning_rate=learning_rate, model="policy")
        long = norm > self._config.optimizer.gradient_clip
        for name, value in {**over_ranks, "norm": norm, "long": long, "count": 1, "tokens": update.trained}.items():
            made[name] += value

    def _observe(self, piece: Piece, proximal_N: torch.Tensor, entropy_N: torch.Tensor, observed: Totals) -> None:
        """Fix the proximal log-probs and importance weights of a row, and sum up what they say."""
        mask_N, correction = piece.row.response_mask, self._config.correction
        piece.proximal = proximal_N.detach()
        weights_N, capped_N = torch.ones_like(piece.proximal), torch.zeros_like(mask_N)
        if correction.kind == "tis":
            weights_N, capped_N = truncated_importance(
                piece.proximal,
                piece.behaviour,
                mask_N,
                piece.row.segment,
                level=correction.level,
                cap=correction.cap,
            )
        piece.weights = weights_N
        trained_N = mask_N.double()
        observed.add(
            tokens=trained_N.sum(),
            kl=piece.kl(self._kl.estimator).sum(),
            entropy=(entropy_N.detach() * trained_N).sum(),
            weight=(weights_N * trained_N).sum(),
            weight_squared=(weights_N.square() * trained_N).sum(),
            capped=capped_N.sum(),
            gap=((piece.proximal - piece.behaviour).abs() * piece.on_newest * trained_N).sum(),
            gap_tokens=(piece.on_newest * trained_N).sum(),
        )

    def _loss(
        self,
        piece: Piece,
        logprobs_N: torch.Tensor,
        entropy_N: torch.Tensor,
        controls: Controls,
        kl_coefficient: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert piece.proximal is not None
        assert piece.weights is not None
        assert piece.advantages is not None
        loss_N, clipped_N = decoupled_surrogate(
            logprobs_N,
            piece.proximal,
            piece.advantages,
            piece.weights,
            clip_low=controls.clip_low,
            clip_high=controls.clip_high,
        )
        if self._kl.where == "loss" and piece.reference is not None:
            loss_N = loss_N + kl_coefficient * kl.estimate(logprobs_N, piece.reference, estimator=self._kl.estimator)
        bonus = self._config.algorithm.entropy_coefficient
        return (loss_N - bonus * entropy_N if bonus else loss_N), clipped_N


def apply(engine: TrainEngine, *, learning_rate: float, model: str) -> float:
    """(collective) The optimizer call of an update; the gradient's norm before clipping. FloatingPointError: not finite."""
    norm = engine.step(learning_rate=learning_rate)
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient norm of the {model} is {norm}; nothing of this step is usable")
    return norm
