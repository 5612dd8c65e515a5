"""A reward model over packed rows: the scores of whole sequences, and the loss of pairs of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from experience.schema import Int32Array
from train_cluster import packing
from train_cluster.engine import TrainEngine
from train_cluster.reward.losses import length_margins, length_slope, preference_loss
from train_cluster.reward.pairs import Pair
from train_cluster.supervised.loop import Sums

SCORED_AT_ONCE = 1024
"""Sequences packed together: enough for full rows, few enough for the packing to take no time."""


class PreferenceLoss:
    """An Objective over pairs, each of which weighs 1: the loss of reward.losses, and how often the chosen answer wins.

    Both answers of a pair stand in one row, one after the other, each after the prompt.
    """

    measures: tuple[str, ...] = ("accuracy",)

    def __init__(self, *, centring: float, flip_rate: float) -> None:
        self._centring, self._flip_rate = centring, flip_rate

    def tokens(self, unit: Pair) -> int:
        return unit.tokens

    def weight(self, unit: Pair) -> int:
        return 1

    def sums(self, engine: TrainEngine, units: Sequence[Pair]) -> Sums:
        device = next(engine.module.parameters()).device
        sequences = [sequence for pair in units for sequence in (pair.chosen, pair.rejected)]
        scores_N = engine.forward(**row_inputs(sequences, device=device))
        if not units:  # the one score of an empty row weighs nothing, but has the gradient that the others wait for
            return Sums(loss=scores_N.sum() * 0.0, measures={"accuracy": 0.0})
        chosen_B, rejected_B = scores_N.view(-1, 2).unbind(1)
        margins_B = torch.tensor([pair.margin for pair in units], dtype=torch.float32, device=device)
        loss_B = preference_loss(chosen_B, rejected_B, margins_B, centring=self._centring, flip_rate=self._flip_rate)
        difference_B = (chosen_B - rejected_B).detach()
        right = (difference_B > 0).sum() + 0.5 * (difference_B == 0).sum()  # a model that says nothing is right by half
        return Sums(loss=loss_B.sum(), measures={"accuracy": right})


def row_inputs(sequences: Sequence[Int32Array], *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Arguments of ScalarModel.forward for one packed row of these sequences, scored at their last tokens; none make a row
    of a single token."""
    filled = sequences or [np.zeros(1, dtype=np.int32)]
    lengths = [len(sequence) for sequence in filled]
    positions = np.concatenate([np.arange(length) for length in lengths])

    def tensor(values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(device)

    return {
        "tokens": tensor(np.concatenate(filled))[None],
        "positions": tensor(positions)[None],
        "predict_index": tensor(np.cumsum(lengths) - 1),
    }


def score_sequences(
    engine: TrainEngine, sequences: Sequence[Int32Array], *, micro_batch_tokens: int
) -> npt.NDArray[np.float64]:
    """(collective) The scores [N] of whole sequences, the same on every rank; without dropout and gradient."""
    device = next(engine.module.parameters()).device
    engine.module.eval()
    lengths = [len(sequence) for sequence in sequences]
    local_N = torch.zeros(len(sequences), dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, len(sequences), SCORED_AT_ONCE):
            chosen = range(start, min(start + SCORED_AT_ONCE, len(sequences)))
            plan = packing.plan(chosen, lengths, world_size=engine.world_size, capacity=micro_batch_tokens)
            for members in plan.rows[engine.rank]:
                inputs = row_inputs([sequences[i] for i in members], device=device)
                scores = engine.forward(**inputs)[: len(members)]
                local_N[list(members)] = scores.double().cpu()
    return engine.sum(local_N).numpy()


def balance_lengths(pairs: Sequence[Pair], *, penalty: float) -> tuple[tuple[Pair, ...], float]:
    """The pairs with margins that take out what their lengths explain, and the slope of that, per token; see reward.losses."""
    if not penalty or not pairs:
        return tuple(pairs), 0.0
    lengths = [pair.answer_tokens for pair in pairs]
    longer = torch.tensor([chosen - rejected for chosen, rejected in lengths], dtype=torch.float64)
    slope = length_slope(longer)
    margins = torch.tensor([pair.margin for pair in pairs], dtype=torch.float64)
    balanced = length_margins(margins, longer, slope=slope, penalty=penalty).tolist()
    return tuple(replace(pair, margin=margin) for pair, margin in zip(pairs, balanced, strict=True)), slope
