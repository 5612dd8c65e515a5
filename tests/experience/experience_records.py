"""Small whole records for the tests of this folder."""

import numpy as np

from experience.schema import (
    BatchRecord,
    Completion,
    CompletionGroup,
    Controls,
    Issue,
    Production,
    Prompt,
    SampleScore,
    Sampling,
    ScoredGroup,
    Settlement,
    VersionSpan,
)

CONTROLS = Controls(learning_rate_scale=1.0, kl_scale=1.0, clip_low=0.2, clip_high=0.28, temperature=1.0)
PRODUCTION = Production(worker="w-0", deliveries=2, queued_at=1.75e9, leased_at=1.75e9, waited_s=0.25, worked_s=1.5)


def a_prompt(sequence: int = 0, *, attempt: int = 0) -> Prompt:
    return Prompt(
        run_id="r",
        lineage=0,
        sequence=sequence,
        prompt_id=f"words:0:{sequence}",
        attempt=attempt,
        tokens=np.array([5, 6, 7], dtype=np.int32),
        metadata={"prompt": "näive", "answer": ["e", 1, 2.5, None, True]},
        group_size=2,
        sampling=Sampling(temperature=0.7, max_tokens=8, stop_token_ids=(1, 2), seed=11),
        min_version=3,
        deadline_s=12.5,
    )


def a_completion(index: int, *, length: int = 4) -> Completion:
    return Completion(
        index=index,
        tokens=np.arange(length, dtype=np.int32),
        sampled=np.arange(length) % 2 == 0,
        behaviour_logprobs=np.linspace(-1, 0, length, dtype=np.float32),
        spans=(VersionSpan(lineage=0, epoch=1, number=3, start=0, end=length),),
        channels={"entropy": np.ones((length, 2), dtype=np.float16), "turn": np.zeros(length, dtype=np.int64)},
        finish_reason="stop",
        seed=11 + index,
    )


def a_group(sequence: int = 0) -> CompletionGroup:
    return CompletionGroup(
        prompt=a_prompt(sequence), completions=(a_completion(0), a_completion(1, length=0)), production=PRODUCTION
    )


def a_scored_group(sequence: int = 0) -> ScoredGroup:
    scores = tuple(
        SampleScore(
            components={"exact": 1.0},
            total=1.0,
            measures={"exact.disagreement": 0.25},
            reference_logprobs={"reference": np.zeros(len(completion.tokens), dtype=np.float32)},
            step_positions=np.empty(0, dtype=np.int32),
            step_rewards=np.empty(0, dtype=np.float32),
        )
        for completion in a_group(sequence).completions
    )
    return ScoredGroup(
        group=a_group(sequence), scores=scores, component_hashes={"exact": "ab" * 32}, production=PRODUCTION
    )


def an_issue(sequence: int = 0) -> Issue:
    return Issue(sequence=sequence, prompt_id=f"words:0:{sequence}", attempt=0)


def a_settlement(sequence: int = 0, *, outcome: str = "trained", reason: str = "") -> Settlement:
    return Settlement(
        sequence=sequence,
        prompt_id=f"words:0:{sequence}",
        attempt=0,
        outcome=outcome,  # type: ignore[arg-type]
        reason=reason,
    )


def a_batch(
    number: int = 1,
    *,
    settled: tuple[Settlement, ...] = (),
    open: tuple[Issue, ...] = (),
    next_sequence: int = 0,
    cursor: int = 0,
    groups: tuple[bytes, ...] = (),
    epoch: int = 1,
) -> BatchRecord:
    return BatchRecord(
        run_id="r",
        lineage=0,
        number=number,
        epoch=epoch,
        groups=groups,
        seed=7,
        controls=CONTROLS,
        settled=settled,
        open=open,
        cursor=cursor,
        next_sequence=next_sequence,
        config_hash="cd" * 32,
    )
