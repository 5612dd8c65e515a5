"""The worker on the real engine and a real store: what leaves it can be trained on."""

import time

import gen_tiny_policy
import numpy as np
import pytest
from gen_tiny_policy import SECOND, Published, logprobs_of, prompt_tokens, sampling

from experience.memory import MemoryBuffer, MemoryServer
from experience.schema import CompletionGroup, Prompt
from experience.wire import decode
from gen_cluster.config import GenerationConfig
from gen_cluster.vllm_engine import VllmEngine
from gen_cluster.worker import GenerationWorker
from weightstore import publish

pytestmark = [pytest.mark.alone, pytest.mark.xdist_group("vllm")]

G = 4


class OpenEngine:
    """The shared engine, which must stay open for other tests."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def close(self) -> None:
        """Not ours to close."""


def a_prompt(sequence: int, max_tokens: int, *, min_version: int) -> Prompt:
    return Prompt(
        run_id="run",
        lineage=0,
        sequence=sequence,
        prompt_id=f"words:0:{sequence}",
        attempt=0,
        tokens=prompt_tokens(6, seed=sequence),
        metadata={},
        group_size=G,
        sampling=sampling(max_tokens, stop=(gen_tiny_policy.EOS,), seed=sequence * G),
        min_version=min_version,
        deadline_s=120.0,
    )


def test_prompts_wait_for_their_version_and_leave_as_groups_sampled_by_it(
    engine: VllmEngine, published: Published
) -> None:
    buffer = MemoryBuffer(MemoryServer(), run_epoch=1)
    buffer.raise_epoch(role="run", epoch=1)
    worker = GenerationWorker(
        GenerationConfig(group_size=G, poll_interval_s=0.001),
        name="gen-0",
        engine=OpenEngine(engine),
        buffer=buffer,
        weights=published.source,
        lease_s=60,
        alone_limit=2,
    )
    worker.setup()
    buffer.issue([a_prompt(i, 8 + 16 * i, min_version=SECOND.number) for i in range(6)], cursor=6)
    deadline = time.monotonic() + 60
    while buffer.snapshot().depths["completions"] < 6:
        worker.step()
        assert time.monotonic() < deadline, worker.status()
    worker.close()

    assert engine.served == publish.newest(published.store, lineage=0, run_epoch=0) == SECOND
    for lease in buffer.lease("completions", worker="reader", count=6, lease_s=60):
        group = decode(lease.data, CompletionGroup)
        assert len(group.completions) == G
        for completion in group.completions:
            (span,) = completion.spans
            assert (span.lineage, span.epoch, span.number) == (SECOND.lineage, SECOND.epoch, SECOND.number)
            expected = logprobs_of(published.policies[1], group.prompt.tokens, completion.tokens)
            np.testing.assert_allclose(completion.behaviour_logprobs, expected, atol=1e-5, rtol=0)
            ended = completion.tokens[-1] == gen_tiny_policy.EOS
            assert completion.finish_reason == ("stop" if ended else "length")
