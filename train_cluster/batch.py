"""From a committed batch to what the learner trains on. B samples, L response tokens of a sample."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from experience import wire
from experience.schema import BatchRecord, Completion, Float32Array, Int32Array, SampleScore, ScoredGroup
from train_cluster.rows import Sequence

REFERENCE = "reference"
"""The reference that KL is measured against, where a sample has log-probs of several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """All samples of a step in issue order; the same on every rank."""

    sequences: tuple[Sequence, ...]
    """[B]; their response_mask is the one mask of training: sampled by the policy, and passed by the filters."""
    group_index: torch.Tensor
    """[B] from 0, in issue order."""
    rewards: torch.Tensor
    """[B] float64 totals."""
    components: Mapping[str, float]
    """Mean raw value by component."""
    measures: Mapping[str, float]
    """Mean by measure of the scorers; what informs and is no reward."""
    behaviour_logprobs: tuple[Float32Array, ...]
    """[B][L] nats."""
    reference_logprobs: tuple[Float32Array, ...]
    """[B][L] nats; empty where the run has no reference."""
    versions: tuple[Int32Array, ...]
    """[B][L] number of the version that sampled each token."""
    finish_reasons: Mapping[str, int]
    """{reason: responses}"""

    @property
    def lengths(self) -> list[int]:
        """[B] response tokens."""
        return [len(sequence.response) for sequence in self.sequences]


def build(record: BatchRecord) -> TrainBatch:
    """Decode a record. ValueError: a group that cannot be trained on, by its id."""
    groups = [wire.decode(data, ScoredGroup) for data in record.groups]
    samples = [
        (group, completion, score)
        for group in groups
        for completion, score in zip(group.group.completions, group.scores, strict=True)
    ]
    sizes = [len(group.scores) for group in groups]
    for group, completion, score in samples:
        _check(group, completion, _reference(score))
    references = [r for r in (_reference(score) for _, _, score in samples) if r is not None]
    return TrainBatch(
        sequences=tuple(_sequence(group, completion) for group, completion, _ in samples),
        group_index=torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(sizes, dtype=torch.long)),
        rewards=torch.tensor([score.total for _, _, score in samples], dtype=torch.float64),
        components=_means([score.components for _, _, score in samples]),
        measures=_means([score.measures for _, _, score in samples]),
        behaviour_logprobs=tuple(completion.behaviour_logprobs for _, completion, _ in samples),
        reference_logprobs=tuple(references) if len(references) == len(samples) else (),
        versions=tuple(_versions(completion) for _, completion, _ in samples),
        finish_reasons=dict(sorted(Counter(completion.finish_reason for _, completion, _ in samples).items())),
    )


def _means(samples: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By name, over the samples that have it."""
    found: dict[str, list[float]] = {}
    for values in samples:
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(found[name])) for name in sorted(found)}


def _sequence(group: ScoredGroup, completion: Completion) -> Sequence:
    prompt = group.group.prompt
    return Sequence(
        prompt=prompt.tokens,
        response=completion.tokens,
        response_mask=completion.sampled,
        temperature=prompt.sampling.temperature,
    )


def _check(group: ScoredGroup, completion: Completion, reference: Float32Array | None) -> None:
    where = f"group {group.group.prompt.group_id}, sample {completion.index}"
    if not len(group.group.prompt.tokens):
        raise ValueError(f"{where}: an empty prompt; its first response token has nothing to be predicted from")
    per_token = {"sampled": completion.sampled, "behaviour log-probs": completion.behaviour_logprobs}
    per_token |= {"spans": _versions(completion)} | ({} if reference is None else {"reference log-probs": reference})
    for name, values in per_token.items():
        if len(values) != len(completion.tokens):
            raise ValueError(f"{where}: {name} cover {len(values)} of {len(completion.tokens)} tokens")
        if not np.isfinite(values[completion.sampled]).all():
            raise ValueError(f"{where}: {name} of a sampled token are not finite")


def _reference(score: SampleScore) -> Float32Array | None:
    """The one to measure KL against: the only one, or the one named `reference`."""
    if len(score.reference_logprobs) == 1:
        return next(iter(score.reference_logprobs.values()))
    return score.reference_logprobs.get(REFERENCE)


def _versions(completion: Completion) -> Int32Array:
    parts = [np.full(span.end - span.start, span.number, dtype=np.int32) for span in completion.spans]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
