"""The learner: one step of reinforcement learning from one committed batch."""

import logging
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experience.schema import BatchRecord, Controls
from train_cluster import batch as batches
from train_cluster import kl, packing
from train_cluster.advantages import group_normalised
from train_cluster.batch import TrainBatch
from train_cluster.config import TrainingConfig
from train_cluster.corrections import truncated_importance
from train_cluster.engine import TrainEngine
from train_cluster.losses import decoupled_surrogate, token_mean
from train_cluster.measures import OBSERVED, Stopwatch, Totals, make_report, newest_alone
from train_cluster.report import StepReport
from train_cluster.rows import Row, build_row
from train_cluster.schedule import warmed_up

logger = logging.getLogger(__name__)

STATE_VERSION = 1


@dataclass(kw_only=True, slots=True)
class _Piece:
    """A row of this rank with what was recorded of its tokens, and what the start of the step finds, all [N]."""

    row: Row
    behaviour: torch.Tensor
    reference: torch.Tensor | None
    on_newest: torch.Tensor
    """1 where the token belongs to a sample that the newest version drew alone."""
    proximal: torch.Tensor | None = None
    weights: torch.Tensor | None = None


@dataclass(kw_only=True, slots=True)
class _Update:
    """The work of one optimizer update on this rank."""

    pieces: list[_Piece]
    trained: int
    """Trained tokens of the update over all ranks."""


class Learner:
    """Turns committed batches into optimizer updates; a pure function of its state, the engine's and the record.

    Knows neither queues nor processes. Every rank is given the same records; the engine adds up what they find.
    """

    def __init__(self, engine: TrainEngine, *, config: TrainingConfig) -> None:
        self._engine = engine
        self._config = config
        self._steps = 0
        self._kl_coefficient = config.kl.coefficient
        if (config.kl.where, config.kl.estimator) == ("loss", "k1"):
            logger.warning(
                "k1 in the loss has no expected gradient: the reference will not hold the policy; use k2 or k3"
            )

    def step(self, record: BatchRecord) -> StepReport:
        """(collective) Train one batch.

        ValueError: the record does not follow the last one trained, or cannot be trained on. FloatingPointError: a
        loss or gradient that is not finite; the parameters are then undefined and must not be published.
        """
        if record.number != self._steps + 1:
            raise ValueError(f"batch {record.number} was given after step {self._steps}; {self._steps + 1} is next")
        watch, observed, made = Stopwatch(), Totals(), defaultdict[str, float](float)
        with watch.phase("unpack"):
            batch = batches.build(record)
            updates = self._plan(batch)
        seed_generators(record.seed, rank=self._engine.rank)
        with watch.phase("proximal"):
            if self._needs_proximal_pass():
                self._proximal_pass(updates, observed)
        coefficient = self._kl_coefficient * record.controls.kl_scale
        advantages_B = group_normalised(
            self._rewards(batch, updates, coefficient),
            batch.group_index,
            scale_by_std=self._config.algorithm.scale_by_std,
        )
        learning_rate = self._learning_rate(record)
        with watch.phase("train"):
            for _ in range(self._config.epochs):
                for update in updates:
                    self._accumulate(update, advantages_B, record.controls, coefficient, observed, made)
                    made["norm"] += self._apply(record.number, learning_rate)
        report = make_report(
            record,
            batch,
            observed=observed.reduced(self._engine, OBSERVED),
            updates=made,
            kl_coefficient=coefficient,
            learning_rate=learning_rate,
            seconds=watch.seconds,
        )
        self._finish(report)
        return report

    def state(self) -> dict[str, Any]:
        """JSON: with the engine's tensors, all that a resume needs to go on bit for bit."""
        return {"version": STATE_VERSION, "steps": self._steps, "kl": {"coefficient": self._kl_coefficient}}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. ValueError: a state of another version."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"learner state has version {state.get('version')}, this one reads {STATE_VERSION}")
        self._steps = int(state["steps"])
        self._kl_coefficient = float(state["kl"]["coefficient"])

    # -- before the updates ------------------------------------------------------------------------------------------
    def _plan(self, batch: TrainBatch) -> list[_Update]:
        """This rank's rows by update; updates without a trained token are left out, on all ranks alike."""
        lengths = [sequence.fed for sequence in batch.sequences]
        newest_alone_B = torch.tensor(newest_alone(batch)[1], dtype=torch.float32)
        updates = []
        for members in packing.cut_groups(batch.group_index.tolist(), mini_batches=self._config.mini_batches):
            trained = [i for i in members if lengths[i]]
            plan = packing.plan(
                trained, lengths, world_size=self._engine.world_size, capacity=self._config.micro_batch_tokens
            )
            rows = [self._row(piece, batch) for piece in plan.rows[self._engine.rank]]
            pieces = [
                _Piece(
                    row=row,
                    behaviour=row.gather(batch.behaviour_logprobs),
                    reference=row.gather(batch.reference_logprobs) if batch.reference_logprobs else None,
                    on_newest=row.spread(newest_alone_B),
                )
                for row in rows
            ]
            if trained:
                updates.append(_Update(pieces=pieces, trained=sum(batch.sequences[i].trained for i in trained)))
        return updates

    def _row(self, members: tuple[int, ...], batch: TrainBatch) -> Row:
        return build_row(members, batch.sequences, device=next(self._engine.module.parameters()).device)

    def _needs_proximal_pass(self) -> bool:
        """False where the training pass itself gives the log-probs of the policy at the start of the step."""
        several = self._config.epochs * self._config.mini_batches > 1
        return several or self._config.kl.where == "reward" or bool(self._engine.module.has_dropout)

    def _proximal_pass(self, updates: list[_Update], observed: Totals) -> None:
        self._engine.module.eval()
        with torch.no_grad():
            for update in updates:
                for piece in update.pieces:
                    proximal_N, entropy_N = self._engine.forward(**piece.row.inputs(), with_entropy=True)
                    self._observe(piece, proximal_N, entropy_N, observed)

    def _observe(self, piece: _Piece, proximal_N: torch.Tensor, entropy_N: torch.Tensor, observed: Totals) -> None:
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
            kl=self._kl_of(piece).sum(),
            entropy=(entropy_N * trained_N).sum(),
            weight=(weights_N * trained_N).sum(),
            weight_squared=(weights_N.square() * trained_N).sum(),
            capped=capped_N.sum(),
            gap=((piece.proximal - piece.behaviour).abs() * piece.on_newest * trained_N).sum(),
            gap_tokens=(piece.on_newest * trained_N).sum(),
        )

    def _kl_of(self, piece: _Piece) -> torch.Tensor:
        """[N] float64, nats, under the policy at the start of the step; 0 where the run has no reference."""
        assert piece.proximal is not None
        if piece.reference is None:
            return torch.zeros_like(piece.proximal, dtype=torch.float64)
        kl_N = kl.estimate(piece.proximal, piece.reference, estimator=self._config.kl.estimator)
        return torch.where(piece.row.response_mask, kl_N, 0.0).double()

    def _rewards(self, batch: TrainBatch, updates: list[_Update], coefficient: float) -> torch.Tensor:
        """[B] float64; with KL in the reward, less coefficient · KL of the response."""
        if self._config.kl.where == "none":
            return batch.rewards
        if not batch.reference_logprobs:
            raise ValueError("kl.where: the batch has no reference log-probs; configure a reference, or set it to none")
        if self._config.kl.where == "loss":
            return batch.rewards
        local_B = torch.zeros_like(batch.rewards)
        for piece in (piece for update in updates for piece in update.pieces if piece.row.members):
            members_N = torch.tensor(piece.row.members)[piece.row.segment.cpu()]
            local_B.index_add_(0, members_N, self._kl_of(piece).cpu())
        return batch.rewards - coefficient * self._engine.sum(local_B)

    def _learning_rate(self, record: BatchRecord) -> float:
        optimizer = self._config.optimizer
        peak = optimizer.learning_rate * record.controls.learning_rate_scale
        return warmed_up(record.number, peak=peak, warmup_steps=optimizer.warmup_steps)

    # -- the updates -------------------------------------------------------------------------------------------------
    def _accumulate(
        self,
        update: _Update,
        advantages_B: torch.Tensor,
        controls: Controls,
        coefficient: float,
        observed: Totals,
        made: defaultdict[str, float],
    ) -> None:
        """(collective) Gradients of one update; its loss and clipped tokens over all ranks go to `made`."""
        self._engine.module.train()
        totals = Totals()
        for piece in update.pieces:
            first = piece.proximal is None
            logprobs_N, entropy_N = self._engine.forward(**piece.row.inputs(), with_entropy=first)
            if first:
                self._observe(piece, logprobs_N, entropy_N, observed)
            loss_N, clipped_N = self._loss(piece, logprobs_N, piece.row.spread(advantages_B), controls, coefficient)
            loss = token_mean(loss_N, piece.row.response_mask, num_trained_tokens=update.trained)
            self._engine.backward(loss)
            totals.add(loss=loss.detach(), clipped=(clipped_N & piece.row.response_mask).sum())
        over_ranks = totals.reduced(self._engine, ("loss", "clipped"))
        for name, value in {**over_ranks, "count": 1, "tokens": update.trained}.items():
            made[name] += value

    def _loss(
        self,
        piece: _Piece,
        logprobs_N: torch.Tensor,
        advantages_N: torch.Tensor,
        controls: Controls,
        coefficient: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert piece.proximal is not None
        assert piece.weights is not None
        loss_N, clipped_N = decoupled_surrogate(
            logprobs_N,
            piece.proximal,
            advantages_N,
            piece.weights,
            clip_low=controls.clip_low,
            clip_high=controls.clip_high,
        )
        if self._config.kl.where == "loss" and piece.reference is not None:
            loss_N = loss_N + coefficient * kl.estimate(
                logprobs_N, piece.reference, estimator=self._config.kl.estimator
            )
        return loss_N, clipped_N

    def _apply(self, number: int, learning_rate: float) -> float:
        norm = self._engine.step(learning_rate=learning_rate)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {number}: the gradient norm is {norm}; nothing of this step is usable")
        return norm

    def _finish(self, report: StepReport) -> None:
        if not math.isfinite(report.loss):
            raise FloatingPointError(f"step {report.step}: the loss is {report.loss}; nothing of this step is usable")
        settings = self._config.kl
        if settings.adaptive and settings.where != "none":
            self._kl_coefficient = kl.next_coefficient(
                self._kl_coefficient,
                kl=report.kl_per_response,
                target=settings.target_nats,
                initial=settings.coefficient,
            )
        self._steps = report.step


def seed_generators(seed: int, *, rank: int) -> None:
    """Make this rank's randomness a function of (seed, rank) alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0] >> 1))
