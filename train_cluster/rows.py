"""Sequences, and the packed rows that one forward pass takes. T fed tokens of a row, N trained tokens of a row."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from experience.schema import BoolArray, Int32Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequence:
    """A prompt and a response, and which tokens of the response are trained."""

    prompt: Int32Array
    """[P], P >= 1: the first response token needs something to be predicted from."""
    response: Int32Array
    """[L]"""
    response_mask: BoolArray
    """[L] True = this token is trained."""
    temperature: float

    @property
    def trained(self) -> int:
        """Number of trained tokens."""
        return int(self.response_mask.sum())

    @property
    def fed(self) -> int:
        """Tokens that a forward pass needs: up to the one before the last trained token; 0 where none is trained."""
        last = self.response_mask.nonzero()[0]
        return len(self.prompt) + int(last[-1]) if last.size else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One micro-batch. An empty one has a single token and a single target that is not trained."""

    members: tuple[int, ...]
    """Which sequences of the batch it holds, in their order in the row."""
    tokens: torch.Tensor
    """[1, T]"""
    positions: torch.Tensor
    """[1, T], from 0 in each sequence."""
    predict_index: torch.Tensor
    """[N]: place in the row of the hidden state that predicts target n."""
    targets: torch.Tensor
    """[N]: the trained tokens."""
    response_mask: torch.Tensor
    """[N] bool: all True, but for an empty row's only target."""
    segment: torch.Tensor
    """[N]: which member target n belongs to."""
    temperature: torch.Tensor
    """[N]"""
    selections: tuple[npt.NDArray[np.intp], ...]
    """By member: the response positions of its trained tokens."""

    def inputs(self) -> dict[str, Any]:
        """Arguments of PolicyModel.forward."""
        return self.places() | {"targets": self.targets, "temperature": self.temperature}

    def places(self) -> dict[str, Any]:
        """Arguments of ScalarModel.forward: the value of each target's prefix."""
        return {"tokens": self.tokens, "positions": self.positions, "predict_index": self.predict_index}

    def gather(self, values: Seq[npt.NDArray[Any]]) -> torch.Tensor:
        """[N] float32 of per-token values that are given for every sequence of the batch, each [L]."""
        if not self.members:
            return self.temperature.new_zeros(1)
        chosen = [values[i][selection] for i, selection in zip(self.members, self.selections, strict=True)]
        return torch.from_numpy(np.concatenate(chosen).astype(np.float32)).to(self.tokens.device)

    def spread(self, values_B: torch.Tensor) -> torch.Tensor:
        """[N] float32 of one value for every sequence of the batch."""
        if not self.members:
            return self.temperature.new_zeros(1)
        members = values_B[torch.tensor(self.members)].float().to(self.tokens.device)
        return members[self.segment]


def build_row(members: tuple[int, ...], sequences: Seq[Sequence], *, device: torch.device | str = "cpu") -> Row:
    """Pack these sequences, each of which trains a token, into one row; none makes an empty row."""
    chosen = [sequences[i] for i in members]
    selections = tuple(sequence.response_mask.nonzero()[0] for sequence in chosen)
    counts = [len(selection) for selection in selections]
    starts = np.cumsum([0, *(sequence.fed for sequence in chosen)])
    tokens = [np.concatenate([sequence.prompt, sequence.response])[: sequence.fed] for sequence in chosen]
    predict = [
        start + len(sequence.prompt) - 1 + selection
        for start, sequence, selection in zip(starts[:-1], chosen, selections, strict=True)
    ]
    targets = [sequence.response[selection] for sequence, selection in zip(chosen, selections, strict=True)]

    def row_of(parts: list[npt.NDArray[Any]]) -> torch.Tensor:
        joined = np.concatenate(parts) if parts else np.zeros(1)
        return torch.from_numpy(joined.astype(np.int64)).to(device)

    temperatures = np.repeat([s.temperature for s in chosen], counts) if chosen else np.ones(1)
    return Row(
        members=members,
        tokens=row_of(tokens)[None],
        positions=row_of([np.arange(sequence.fed) for sequence in chosen])[None],
        predict_index=row_of(predict),
        targets=row_of(targets),
        response_mask=torch.full((max(1, sum(counts)),), bool(members), device=device),
        segment=row_of([np.full(count, k) for k, count in enumerate(counts)]),
        temperature=torch.from_numpy(temperatures.astype(np.float32)).to(device),
        selections=selections,
    )
