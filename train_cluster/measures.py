"""Sums over a step's tokens, and the report that is made of them."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from experience.schema import BatchRecord
from train_cluster.batch import TrainBatch
from train_cluster.engine import TrainEngine
from train_cluster.report import CriticReport, StepReport

OBSERVED = ("tokens", "kl", "entropy", "weight", "weight_squared", "capped", "gap", "gap_tokens")
"""What is summed over the trained tokens of a rank, once per step, under the policy at the start of the step."""


class Totals:
    """Named float64 sums of one rank, added up over the ranks in one collective."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)

    def add(self, **values: torch.Tensor | float) -> None:
        for name, value in values.items():
            self._sums[name] += float(value)

    def reduced(self, engine: TrainEngine, names: tuple[str, ...]) -> dict[str, float]:
        """(collective) The sums over all ranks."""
        local = torch.tensor([self._sums[name] for name in names], dtype=torch.float64)
        return dict(zip(names, engine.sum(local).tolist(), strict=True))


class Stopwatch:
    """Wall time by phase. Measured, reported, never used."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def newest_alone(batch: TrainBatch) -> tuple[int, list[bool]]:
    """The newest version in the batch, and by sample whether it was drawn by that version alone."""
    newest = max((int(versions.max()) for versions in batch.versions if len(versions)), default=0)
    return newest, [len(versions) > 0 and bool((versions == newest).all()) for versions in batch.versions]


def effective_share(total: float, squared: float, *, count: int) -> float:
    """Kish's effective sample size as a share, (sum w)^2 / (n sum w^2); 0 where all weights have vanished (a policy that
    gives its samples no chance any more), 1 where there is none."""
    if count == 0:
        return 1.0
    return total**2 / (count * squared) if squared > 0 else 0.0


def explained_variance(*, error_std: float, return_std: float) -> float:
    """1 − Var(return − value) / Var(return); 0 where the returns do not vary."""
    return 1.0 - (error_std / return_std) ** 2 if return_std > 0 else 0.0


def correlation(xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> float:
    """Pearson's of xs [N] and ys [N]; 0 where one of them does not vary."""
    spread = float(xs.std() * ys.std())
    return float(((xs - xs.mean()) * (ys - ys.mean())).mean()) / spread if spread > 0 else 0.0


def make_report(
    record: BatchRecord,
    batch: TrainBatch,
    *,
    observed: Mapping[str, float],
    updates: Mapping[str, float],
    critic: CriticReport | None,
    kl_coefficient: float,
    learning_rate: float,
    seconds: Mapping[str, float],
) -> StepReport:
    """`observed`: reduced sums by the names of OBSERVED; `updates`: count, tokens, sums of loss, norm, clipped, and how many
    had a gradient too long (`long`)."""
    tokens = max(1.0, observed["tokens"])
    responses = max(1, sum(sequence.trained > 0 for sequence in batch.sequences))
    newest, alone = newest_alone(batch)
    sampled = [v[s.response_mask] for v, s in zip(batch.versions, batch.sequences, strict=True)]
    staleness = record.number - 1 - np.concatenate([*sampled, np.zeros(0, dtype=np.int32)])
    oldest = Counter(record.number - 1 - int(versions.min()) for versions in sampled if len(versions))
    count = max(1.0, updates["count"])
    return StepReport(
        step=record.number,
        loss=updates["loss"] / count,
        reward_mean=float(batch.rewards.mean()),
        reward_std=float(batch.rewards.std(correction=0)),
        reward_components=batch.components,
        reward_measures=batch.measures,
        kl_per_response=observed["kl"] / responses,
        kl_per_token=observed["kl"] / tokens,
        kl_coefficient=kl_coefficient,
        entropy=observed["entropy"] / tokens,
        clip_fraction=updates["clipped"] / max(1.0, updates["tokens"]),
        correction_capped=observed["capped"] / tokens,
        correction_mean=observed["weight"] / tokens,
        correction_ess=effective_share(observed["weight"], observed["weight_squared"], count=int(observed["tokens"])),
        grad_norm=updates["norm"] / count,
        grad_clipped_ratio=updates["long"] / count,
        learning_rate=learning_rate,
        tokens_trained=int(observed["tokens"]),
        sequences=len(batch.sequences),
        updates=int(updates["count"]),
        critic=critic,
        logprob_gap=observed["gap"] / max(1.0, observed["gap_tokens"]),
        logprob_gap_sequences=sum(alone),
        logprob_gap_staleness=record.number - 1 - newest,
        staleness_mean=float(staleness.mean()) if staleness.size else 0.0,
        staleness_max=float(staleness.max()) if staleness.size else 0.0,
        staleness_steps=dict(sorted(oldest.items())),
        response_length_mean=float(np.mean(batch.lengths)),
        truncated=batch.finish_reasons.get("length", 0) / len(batch.sequences),
        finish_reasons=batch.finish_reasons,
        masked=1.0 - sum(sequence.trained for sequence in batch.sequences) / max(1, sum(batch.lengths)),
        length_reward_correlation=correlation(np.array(batch.lengths, dtype=np.float64), batch.rewards.numpy()),
        seconds=seconds,
    )
