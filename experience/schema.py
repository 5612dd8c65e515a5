"""The records that travel: one frozen type per stage; each stage contains the one before it.

The unit is the group: one prompt with its G samples. L = response tokens of a sample; entry t of every [L] field
belongs to response token t. Arrays are read-only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

FinishReason = Literal["stop", "length"]
Outcome = Literal["trained", "dropped", "filtered", "quarantined", "lost", "abandoned"]

SCHEMA_VERSION = 3
"""Version of the wire form. A newer one is refused; the one before is readable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the completions of one prompt are drawn."""

    temperature: float
    """> 0; the trainer and the reference divide their logits by the same value."""
    max_tokens: int
    """Response tokens, at most."""
    stop_token_ids: tuple[int, ...]
    """Sampling one of these ends the response; the token is kept as its last token."""
    seed: int
    """Sample i draws with seed + i."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt to be answered G times, as the orchestrator issues it."""

    run_id: str
    lineage: int
    sequence: int
    """Issue number within the lineage, from 0, without gaps."""
    prompt_id: str
    """`{data set}:{pass}:{index}`: deterministic."""
    attempt: int
    """From 0; grows when the prompt is issued anew under another sequence."""
    tokens: Int32Array
    """[P]"""
    metadata: Mapping[str, Any]
    """The data set's row, for verifiers; JSON values only. `prompt` holds the untokenised text."""
    group_size: int
    """G >= 1"""
    sampling: Sampling
    min_version: int
    """An engine starts the prompt only once it serves a version of at least this number."""
    deadline_s: float
    """Seconds from the start of generation after which the group counts as failed."""

    @property
    def group_id(self) -> str:
        """Names the group everywhere: a pure function of run, lineage and sequence."""
        return f"{self.run_id}/{self.lineage}/{self.sequence}"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSpan:
    """Response tokens [start, end) were sampled by one version of the weights."""

    lineage: int
    epoch: int
    number: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled answer, as a generation worker hands it to the scorers."""

    index: int
    """Sample index in the group, 0 .. G-1."""
    tokens: Int32Array
    """[L]"""
    sampled: BoolArray
    """[L] False for tokens that an environment or a tool wrote: their log-probs mean nothing."""
    behaviour_logprobs: Float32Array
    """[L] log pi_behaviour(token | prefix), nats, after temperature."""
    spans: tuple[VersionSpan, ...]
    """Contiguous; together they cover [0, L)."""
    channels: Mapping[str, npt.NDArray[Any]]
    """Further per-token arrays by name, each [L, ...]."""
    finish_reason: FinishReason
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Production:
    """Who made a record and how long it took; apart from identity, never trained on."""

    worker: str
    deliveries: int
    """Of the input, this one included: above 1 it was begun before, and not finished. 0 = not known (an older record)."""
    queued_at: float
    """Unix seconds by the buffer's clock: the input was put into its stream. 0 = not known (an older record)."""
    leased_at: float
    """Unix seconds by the worker's clock, which may differ from the buffer's. 0 = not known (an older record)."""
    waited_s: float
    """Seconds between leasing the input and starting on it, by a clock that nobody sets."""
    worked_s: float
    """Seconds between starting and finishing, by the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionGroup:
    """The G completions of one prompt, ordered by index."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    production: Production


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleScore:
    """What the scorers say of one completion."""

    components: Mapping[str, float]
    """Raw, unweighted reward by component."""
    total: float
    """The combination of the components that the trainer maximises."""
    measures: Mapping[str, float]
    """`{component}.{measure}`: what informs and is no reward, as the disagreement of an ensemble; `diversity.{measure}` is
    of the whole group. Like the components a pure function of tokens and models, since the ledger keeps it."""
    reference_logprobs: Mapping[str, Float32Array]
    """{reference: [L]} log pi_ref(token | prefix), nats, at the sampling temperature."""
    step_positions: Int32Array
    """[S] response positions that carry a step reward; S = 0 where there are none."""
    step_rewards: Float32Array
    """[S]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredGroup:
    """A group with its rewards and reference log-probs: what the learner consumes."""

    group: CompletionGroup
    scores: tuple[SampleScore, ...]
    """Aligned with `group.completions`."""
    component_hashes: Mapping[str, str]
    """SHA-256 of what made each component (source of a function, weights of a model)."""
    production: Production


@dataclass(frozen=True, kw_only=True, slots=True)
class Issue:
    """An issued (prompt, attempt) under its sequence number."""

    sequence: int
    prompt_id: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """The one end of an issued group."""

    sequence: int
    prompt_id: str
    attempt: int
    outcome: Outcome
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Controls:
    """What is decided outside the learner and holds for one step; recorded, so that a replay obeys it too."""

    learning_rate_scale: float
    """Factor on the schedule's learning rate."""
    kl_scale: float
    """Factor on the KL coefficient in force."""
    clip_low: float
    clip_high: float
    temperature: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRecord:
    """One committed batch: everything that training step `number` depends on, beside the cut before it."""

    run_id: str
    lineage: int
    number: int
    """Step that trains this batch, from 1."""
    epoch: int
    """Epoch of the composer."""
    groups: tuple[bytes, ...]
    """B encoded ScoredGroup, in training order (= issue order)."""
    seed: int
    """Every rank seeds its generators from (seed, rank) before the step."""
    controls: Controls
    settled: tuple[Settlement, ...]
    """All that was settled since the batch before, the trained groups of this one included."""
    open: tuple[Issue, ...]
    """Issued and still unsettled after this batch, by sequence."""
    cursor: int
    """Prompts drawn from the data so far."""
    next_sequence: int
    """Every sequence below it was issued."""
    config_hash: str
