"""An engine and a learner that wait for as long as recorded ones worked, in place of vLLM and of the optimizer.

All else of a run is real. `build` is the builder that `orchestrator.life.live` is given; what to wait for stands in the
file that HEADRACE_BENCH_WAITS names, which the local Ray's processes inherit.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experience import wire
from experience.schema import BatchRecord, Int32Array, Sampling, ScoredGroup, VersionSpan
from gen_cluster.config import EngineConfig
from gen_cluster.engine import Finished
from train_cluster.config import TrainingConfig
from train_cluster.report import StepReport
from weightstore.fetch import FetchedVersion
from weightstore.manifest import WeightVersion

VARIABLE = "HEADRACE_BENCH_WAITS"
TELL_S = 0.5
"""Between two lines of the engine's account in its log."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """What a case waits for."""

    lengths: list[list[int]]
    """Response tokens of each recorded group, by sample; group n of the run answers as group n mod len(lengths) did."""
    decode_s: float
    """Of an engine's step: one token for every running request."""
    train_s_per_token: float

    @classmethod
    def read(cls) -> "Waits":
        return cls(**json.loads(Path(os.environ[VARIABLE]).read_text()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def build(spec: Mapping[str, Any]) -> Any:
    """The real worker of a process, with a stand-in where it looks for its engine or its learner."""
    from orchestrator import build as real

    if spec["kind"] == "gen":
        from gen_cluster import vllm_engine

        vllm_engine.VllmEngine = WaitingEngine  # type: ignore[misc, assignment]
    if spec["kind"] == "rank":
        from train_cluster import trained

        trained.Learner = WaitingLearner  # type: ignore[misc, assignment]
    return real.build(spec)


class WaitingEngine:
    """`gen_cluster.engine.Engine` with continuous batching: a step takes decode_s however many requests run.

    Its log says where its time went, seconds since the first request: `busy` in steps, weighted by the share of slots in
    use as `filled`; `empty` without a request; the rest went between two steps, into the worker.
    """

    def __init__(self, config: EngineConfig, *, model_path: str) -> None:
        self.served: WeightVersion | None = None
        self._slots = config.max_sequences
        self._waits = Waits.read()
        self._left: dict[str, int] = {}
        """Tokens still to be sampled, by request."""
        self._tokens: dict[str, list[WeightVersion]] = {}
        """The version of each sampled token."""
        self._account = {"busy": 0.0, "filled": 0.0, "empty": 0.0}
        self._began = self._told = self._emptied = 0.0

    def add(self, request_id: str, *, tokens: Int32Array, sampling: Sampling, seed: int) -> None:
        now = time.monotonic()
        if not self._began:
            self._began = self._told = now
        elif not self._left:
            self._account["empty"] += now - self._emptied
        self._left[request_id] = _length(request_id, self._waits.lengths)
        self._tokens[request_id] = []

    def abort(self, request_ids: Iterable[str]) -> int:
        for request_id in request_ids:
            self._left.pop(request_id, None)
        return sum(len(self._tokens.pop(request_id, ())) for request_id in request_ids)

    def step(self) -> list[Finished]:
        assert self.served is not None
        began = time.monotonic()
        time.sleep(self._waits.decode_s)  # the work itself
        now = time.monotonic()
        running = list(self._left)[: self._slots]
        self._account["busy"] += now - began
        self._account["filled"] += (now - began) * len(running) / self._slots
        finished = []
        for request_id in running:
            self._tokens[request_id].append(self.served)
            self._left[request_id] -= 1
            if not self._left[request_id]:
                del self._left[request_id]
                finished.append(_finished(request_id, self._tokens.pop(request_id)))
        if not self._left:
            self._emptied = now
        if now - self._told >= TELL_S:
            self._told = now
            logger.info("engine account", extra={**self._account, "since": now - self._began})
        return finished

    def running(self) -> int:
        return len(self._left)

    def free_slots(self) -> int:
        return max(0, self._slots - len(self._left))

    def expected_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def update(self, fetched: FetchedVersion) -> None:
        self.served = fetched.manifest.version

    def close(self) -> None: ...


class WaitingLearner:
    """`train_cluster.learner.Learner` that waits for a time proportional to the batch's tokens and changes no weight."""

    def __init__(self, engine: Any, *, config: TrainingConfig, critic: Any) -> None:
        self._seconds = Waits.read().train_s_per_token
        self._steps = 0

    def step(self, record: BatchRecord) -> StepReport:
        began = time.monotonic()
        groups = [wire.decode(data, ScoredGroup).group for data in record.groups]
        completions = [completion for group in groups for completion in group.completions]
        tokens = sum(len(completion.tokens) for completion in completions)
        stalest = record.number - 1 - min(span.number for completion in completions for span in completion.spans)
        time.sleep(max(0.0, tokens * self._seconds - (time.monotonic() - began)))
        self._steps = record.number
        return _report(record.number, sequences=len(completions), tokens=tokens, stalest=stalest)

    def state(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state(self, state: dict[str, Any]) -> None:
        self._steps = int(state["steps"])


def _length(request_id: str, lengths: list[list[int]]) -> int:
    """Of `{run}/{lineage}/{sequence}#{delivery}/{sample}`."""
    group, _, rest = request_id.rpartition("#")
    recorded = lengths[int(group.rpartition("/")[2]) % len(lengths)]
    return recorded[int(rest.rpartition("/")[2]) % len(recorded)]


def _finished(request_id: str, versions: list[WeightVersion]) -> Finished:
    starts = [t for t, version in enumerate(versions) if t == 0 or version != versions[t - 1]]
    spans = tuple(
        VersionSpan(lineage=at.lineage, epoch=at.epoch, number=at.number, start=start, end=end)
        for start, end in zip(starts, [*starts[1:], len(versions)], strict=True)
        for at in [versions[start]]
    )
    return Finished(
        request_id=request_id,
        tokens=np.full(len(versions), 5, dtype=np.int32),
        logprobs=np.full(len(versions), -1.0, dtype=np.float32),
        spans=spans,
        finish_reason="stop",
    )


def _report(step: int, *, sequences: int, tokens: int, stalest: int) -> StepReport:
    """Nothing is measured but counts and staleness."""
    numbers = dict.fromkeys(StepReport.__dataclass_fields__, 0.0)
    given = {"step": step, "sequences": sequences, "tokens_trained": tokens, "staleness_max": float(stalest)}
    mappings = ("reward_components", "reward_measures", "staleness_steps", "finish_reasons", "seconds")
    return StepReport(**{**numbers, **given, **{name: {} for name in mappings}, "critic": None})  # type: ignore[arg-type]
