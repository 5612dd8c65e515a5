"""A tiny model folder, whole batch records and ranks that are threads, for the tests of this folder."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from experience import wire
from experience.schema import (
    BatchRecord,
    Completion,
    CompletionGroup,
    Controls,
    Production,
    Prompt,
    SampleScore,
    Sampling,
    ScoredGroup,
    VersionSpan,
)
from train_cluster.plain import PlainEngine

torch.set_num_threads(1)  # the models are tiny: a second thread only waits
VOCABULARY = 23
CONTROLS = Controls(learning_rate_scale=1.0, kl_scale=1.0, clip_low=0.2, clip_high=0.28, temperature=1.0)
PRODUCTION = Production(worker="w-0", deliveries=1, queued_at=0.0, leased_at=0.0, waited_s=0.0, worked_s=0.0)


def save_tiny_model(folder: Path, *, tied: bool = True) -> Path:
    """A config.json of a two-layer Llama."""
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
    ).save_pretrained(folder)
    return folder


def a_completion(index: int, tokens: np.ndarray, behaviour: np.ndarray, *, version: int = 0) -> Completion:
    return Completion(
        index=index,
        tokens=tokens.astype(np.int32),
        sampled=np.ones(len(tokens), dtype=bool),
        behaviour_logprobs=behaviour.astype(np.float32),
        spans=(VersionSpan(lineage=0, epoch=1, number=version, start=0, end=len(tokens)),),
        channels={},
        finish_reason="stop",
        seed=index,
    )


def a_scored_group(
    sequence: int,
    prompt: Sequence[int],
    completions: Sequence[Completion],
    rewards: Sequence[float],
    references: Sequence[np.ndarray] | None = None,
    *,
    temperature: float = 1.0,
) -> ScoredGroup:
    return ScoredGroup(
        group=CompletionGroup(
            prompt=Prompt(
                run_id="r",
                lineage=0,
                sequence=sequence,
                prompt_id=f"words:0:{sequence}",
                attempt=0,
                tokens=np.array(prompt, dtype=np.int32),
                metadata={},
                group_size=len(completions),
                sampling=Sampling(temperature=temperature, max_tokens=64, stop_token_ids=(), seed=sequence),
                min_version=0,
                deadline_s=60.0,
            ),
            completions=tuple(completions),
            production=PRODUCTION,
        ),
        scores=tuple(
            SampleScore(
                components={"exact": reward},
                total=reward,
                measures={},
                reference_logprobs={} if references is None else {"reference": references[i].astype(np.float32)},
                step_positions=np.zeros(0, dtype=np.int32),
                step_rewards=np.zeros(0, dtype=np.float32),
            )
            for i, reward in enumerate(rewards)
        ),
        component_hashes={"exact": "00" * 32},
        production=PRODUCTION,
    )


def random_group(
    sequence: int, *, size: int = 4, longest: int = 12, seed: int = 0, reference: bool = True
) -> ScoredGroup:
    """Random tokens of uneven lengths; behaviour and reference near the uniform policy of a fresh model."""
    random = np.random.default_rng([seed, sequence])
    lengths = random.integers(1, longest + 1, size)
    noise = [random.normal(-np.log(VOCABULARY), 0.2, length) for length in lengths]
    completions = [
        a_completion(i, random.integers(0, VOCABULARY, length), noise[i]) for i, length in enumerate(lengths)
    ]
    references = [noise[i] + random.normal(0, 0.3, length) for i, length in enumerate(lengths)]
    prompt = random.integers(0, VOCABULARY, random.integers(2, 9)).tolist()
    rewards = random.normal(0, 1, size).tolist()
    return a_scored_group(sequence, prompt, completions, rewards, references if reference else None)


def a_record(
    number: int, groups: Sequence[ScoredGroup], *, controls: Controls = CONTROLS, seed: int = 7
) -> BatchRecord:
    return BatchRecord(
        run_id="r",
        lineage=0,
        number=number,
        epoch=1,
        groups=tuple(wire.encode(group) for group in groups),
        seed=seed + number,
        controls=controls,
        settled=(),
        open=(),
        cursor=0,
        next_sequence=0,
        config_hash="c",
    )


class ThreadedRank(PlainEngine):
    """One of two ranks that are threads: sums meet at a barrier. The collectives of the Protocol, without processes."""

    def __init__(self, peers: list["ThreadedRank"], barrier: threading.Barrier, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.rank, self.world_size = len(peers), 2
        self._peers, self._barrier = peers, barrier
        self._shared = torch.zeros(0)
        self.forwards = 0
        peers.append(self)

    def forward(self, **inputs: Any) -> Any:
        self.forwards += 1
        return super().forward(**inputs)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self._shared = values.double()
        self._barrier.wait()
        total = torch.stack([peer._shared for peer in self._peers]).sum(0)
        self._barrier.wait()
        return total

    def step(self, *, learning_rate: float) -> float:
        for parameter in self._parameters.values():
            parameter.grad = self.sum(parameter.grad).float()
        return super().step(learning_rate=learning_rate)
