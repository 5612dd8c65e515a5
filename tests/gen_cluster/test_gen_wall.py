"""A generation worker's phases add up to its wall time, and say what it waited for. 2 s."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from scripted_engine import ENDLESS_TOKEN, ScriptedEngine, ScriptedSource

from experience.memory import MemoryBuffer, MemoryServer
from experience.schema import Prompt, Sampling
from gen_cluster import metrics
from gen_cluster.config import GenerationConfig
from gen_cluster.worker import GenerationWorker

DONE_S = 20.0
SLOW_S = 0.03
"""Of each operation that a phase stands for; far above what switching and scheduling cost."""

EXACT_S = 1e-6
"""Rounding of some sums."""


class SlowEngine(ScriptedEngine):
    def step(self) -> list[Any]:
        time.sleep(SLOW_S)
        return super().step()

    def update(self, fetched: Any) -> None:
        time.sleep(SLOW_S)
        super().update(fetched)


class SlowBuffer(MemoryBuffer):
    def advance(self, outputs: Any) -> list[bool]:
        time.sleep(SLOW_S)
        return super().advance(outputs)


class Life:
    """A worker at work in a thread, as a host runs it."""

    def __init__(self) -> None:
        self.buffer = SlowBuffer(MemoryServer(), run_epoch=1)
        self.buffer.raise_epoch(role="run", epoch=1)
        self.source = ScriptedSource(number=None)
        self.began = time.monotonic() - 0.5
        self.worker = GenerationWorker(
            GenerationConfig(group_size=2, poll_interval_s=0.005),
            name="gen-0",
            engine=SlowEngine(),
            buffer=self.buffer,
            weights=self.source,
            lease_s=60.0,
            alone_limit=2,
            began=self.began,
        )
        self.worker.setup()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.worker.run, args=(self.stop,))

    def issue(self, sequence: int, *, min_version: int = 0, tokens: tuple[int, ...] = (5, 6)) -> None:
        prompt = Prompt(
            run_id="run",
            lineage=0,
            sequence=sequence,
            prompt_id=f"words:0:{sequence}",
            attempt=0,
            tokens=np.array(tokens, dtype=np.int32),
            metadata={"prompt": "ab"},
            group_size=2,
            sampling=Sampling(temperature=1.0, max_tokens=4, stop_token_ids=(1,), seed=100 * sequence),
            min_version=min_version,
            deadline_s=4 * SLOW_S if ENDLESS_TOKEN in tokens else 600.0,
        )
        self.buffer.issue([prompt], cursor=sequence + 1)

    def until_in(self, phase: str, *, above_s: float) -> None:
        deadline = time.monotonic() + DONE_S
        while self.worker.status()["wall"][phase] < above_s:
            assert time.monotonic() < deadline, f"{phase}: {self.worker.status()}"
            time.sleep(0.002)


@pytest.fixture
def life() -> Iterator[Life]:
    made = Life()
    yield made
    made.stop.set()
    if made.thread.ident is not None:
        made.thread.join()
    made.worker.close()


def scraped(life: Life) -> tuple[dict[str, float], float, float]:
    """Seconds by phase as one scrape has them, and the life's age just before and just after it."""
    before = time.monotonic() - life.began
    (family,) = metrics.WALL.collect()
    after = time.monotonic() - life.began
    return {sample.labels["phase"]: sample.value for sample in family.samples}, before, after


def test_phases_add_up_to_wall_time_from_the_start_and_between_scrapes(life: Life) -> None:
    life.thread.start()
    life.until_in("wait_weights", above_s=0.05)
    first, first_before, first_after = scraped(life)
    life.source.number = 0
    life.until_in("wait_prompts", above_s=0.05)
    life.issue(0)
    life.until_in("exchange", above_s=SLOW_S)
    life.issue(1, min_version=1)
    life.until_in("wait_version", above_s=0.05)
    life.source.number = 1
    life.until_in("exchange", above_s=2 * SLOW_S)
    last, last_before, last_after = scraped(life)
    assert set(first) == set(last) == set(metrics.PHASES)
    assert first_before - EXACT_S <= sum(first.values()) <= first_after + EXACT_S
    assert last_before - EXACT_S <= sum(last.values()) <= last_after + EXACT_S
    assert first["start"] >= 0.5  # from before it was made
    assert first["generate"] == first["load_weights"] == 0.0
    assert last["generate"] >= 8 * SLOW_S  # two groups of four steps
    assert last["load_weights"] >= 2 * SLOW_S
    assert all(last[phase] >= first[phase] for phase in last)
    assert last["start"] == first["start"]


def test_what_requests_end_by_and_what_is_given_up(life: Life) -> None:
    def seen(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"headrace_gen_{name}", labels) or 0.0

    names = ("given_up_tokens_count", "given_up_tokens_sum")
    before = {name: seen(name) for name in names}
    ends = {reason: seen("finished_total", reason=reason) for reason in ("length", "abort")}
    life.source.number = 0
    life.thread.start()
    life.issue(0)
    life.until_in("exchange", above_s=SLOW_S)
    life.issue(1, tokens=(5, ENDLESS_TOKEN))
    deadline = time.monotonic() + DONE_S
    while seen("given_up_tokens_count") == before["given_up_tokens_count"]:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert seen("finished_total", reason="length") == ends["length"] + 2
    assert seen("finished_total", reason="abort") == ends["abort"] + 2
    tokens = seen("given_up_tokens_sum") - before["given_up_tokens_sum"]
    assert tokens > 0
    assert tokens % 2 == 0  # both samples had as many when they were given up
    assert seen("max_sequences") == GenerationConfig().engine.max_sequences
