"""From decoded groups to scored ones, one failing group never touching another: no buffer, no lease, no clock."""

from collections.abc import Mapping, Sequence

import numpy as np

from experience.schema import Completion, CompletionGroup, Float32Array, Production, SampleScore, ScoredGroup
from score_cluster.diversity import Diversity
from score_cluster.judge import Judgement
from score_cluster.reference import Reference, Response

REFERENCE_NAME = "reference"
"""Name of the one reference among a sample's reference log-probs, and of its failures."""


class ScoringFailed(RuntimeError):
    """A group could not be scored; `component` names the reward or the reference that failed."""

    def __init__(self, component: str, reason: str) -> None:
        super().__init__(reason)
        self.component = component


def reference_values(
    reference: Reference, groups: Sequence[CompletionGroup]
) -> list[list[Float32Array] | ScoringFailed]:
    """Reference log-probs of each group's completions; a group that fails alone fails, the others have theirs."""
    try:
        flat = reference.logprobs([response for group in groups for response in _responses(group)])
    except Exception as error:  # whose fault it is shows when each group is asked alone
        if len(groups) > 1:
            return [answer for group in groups for answer in reference_values(reference, [group])]
        problem = f"{type(error).__name__}: {error}"
        return [ScoringFailed(REFERENCE_NAME, f"reference failed on group {groups[0].prompt.sequence}: {problem}")]
    values = iter(flat)
    return [[next(values) for _ in group.completions] for group in groups]


def scored(
    group: CompletionGroup,
    *,
    judgement: Judgement,
    diversity: Diversity,
    component_hashes: Mapping[str, str],
    reference_logprobs: Sequence[Float32Array] | None,
    production: Production,
) -> ScoredGroup:
    """Put a group, its rewards and its reference log-probs (None: no reference) into one record."""
    of_group = diversity.measures()
    scores = tuple(
        SampleScore(
            components={name: values[index] for name, values in judgement.components.items()},
            total=total,
            measures={name: values[index] for name, values in judgement.measures.items()} | of_group,
            reference_logprobs={} if reference_logprobs is None else {REFERENCE_NAME: reference_logprobs[index]},
            step_positions=np.zeros(0, dtype=np.int32),
            step_rewards=np.zeros(0, dtype=np.float32),
        )
        for index, total in enumerate(judgement.totals)
    )
    return ScoredGroup(group=group, scores=scores, component_hashes=component_hashes, production=production)


def kl_of_version_zero(groups: Sequence[ScoredGroup]) -> list[float]:
    """[N] KL per response, nats, between the policy before any training and the reference; of samples of it alone.

    k3 = exp(d) - 1 - d with d = log pi_ref - log pi (Schulman 2020), summed over sampled tokens: the estimate that is
    never negative, so that rounding errors of both signs do not cancel.
    """
    return [
        _k3(completion, score.reference_logprobs[REFERENCE_NAME])
        for scored_group in groups
        for completion, score in zip(scored_group.group.completions, scored_group.scores, strict=True)
        if REFERENCE_NAME in score.reference_logprobs and all(span.number == 0 for span in completion.spans)
    ]


def _responses(group: CompletionGroup) -> list[Response]:
    temperature = group.prompt.sampling.temperature
    return [Response(prompt=group.prompt.tokens, tokens=c.tokens, temperature=temperature) for c in group.completions]


def _k3(completion: Completion, reference: Float32Array) -> float:
    difference = (reference - completion.behaviour_logprobs).astype(np.float64)[completion.sampled]
    return float((np.expm1(difference) - difference).sum())
