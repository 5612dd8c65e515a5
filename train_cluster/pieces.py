"""The work of a step on one rank: packed rows with what is known of their tokens, by optimizer update. N tokens of a row."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from train_cluster import kl, packing
from train_cluster.batch import TrainBatch
from train_cluster.config import KlEstimator, TrainingConfig
from train_cluster.engine import TrainEngine
from train_cluster.measures import newest_alone
from train_cluster.rows import Row, build_row


@dataclass(kw_only=True, slots=True)
class Piece:
    """A row of this rank with what was recorded of its tokens, and what the start of the step finds, all [N]."""

    row: Row
    behaviour: torch.Tensor
    reference: torch.Tensor | None
    on_newest: torch.Tensor
    """1 where the token belongs to a sample that the newest version drew alone."""
    proximal: torch.Tensor | None = None
    """Log-probs of the policy at the start of the step, and the importance weights that follow from them."""
    weights: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    """Set by the algorithm before the first update."""
    values: torch.Tensor | None = None
    """Where there is a critic: what it said at the start of the step, and the returns that it learns."""
    returns: torch.Tensor | None = None

    def kl(self, estimator: KlEstimator) -> torch.Tensor:
        """[N] float64, nats, under the policy at the start of the step; 0 where the run has no reference."""
        assert self.proximal is not None
        if self.reference is None:
            return torch.zeros_like(self.proximal, dtype=torch.float64)
        kl_N = kl.estimate(self.proximal, self.reference, estimator=estimator)
        return torch.where(self.row.response_mask, kl_N, 0.0).double()


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """The work of one optimizer update on this rank."""

    pieces: list[Piece]
    trained: int
    """Trained tokens of the update over all ranks."""


def every_piece(updates: Iterable[Update]) -> Iterator[Piece]:
    return (piece for update in updates for piece in update.pieces)


def plan_updates(batch: TrainBatch, *, engine: TrainEngine, config: TrainingConfig) -> list[Update]:
    """This rank's rows by update; updates without a trained token are left out, on all ranks alike."""
    device = next(engine.module.parameters()).device
    lengths = [sequence.fed for sequence in batch.sequences]
    newest_alone_B = torch.tensor(newest_alone(batch)[1], dtype=torch.float32)
    group_index = batch.group_index.tolist()
    parts = config.mini_batches_in_force(len(set(group_index)))
    updates = []
    for members in packing.cut_groups(group_index, mini_batches=parts):
        trained = [i for i in members if lengths[i]]
        plan = packing.plan(trained, lengths, world_size=engine.world_size, capacity=config.micro_batch_tokens)
        rows = [build_row(piece, batch.sequences, device=device) for piece in plan.rows[engine.rank]]
        pieces = [
            Piece(
                row=row,
                behaviour=row.gather(batch.behaviour_logprobs),
                reference=row.gather(batch.reference_logprobs) if batch.reference_logprobs else None,
                on_newest=row.spread(newest_alone_B),
            )
            for row in rows
        ]
        if trained:
            updates.append(Update(pieces=pieces, trained=sum(batch.sequences[i].trained for i in trained)))
    return updates
