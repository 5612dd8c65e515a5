"""A tiny policy folder, a module of reward functions, and groups of completions waiting to be scored."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from experience import wire
from experience.buffer import ExperienceBuffer
from experience.config import ExperienceConfig
from experience.memory import MemoryBuffer, MemoryServer
from experience.redis_buffer import RedisBuffer
from experience.redis_client import Address
from experience.schema import Completion, CompletionGroup, Production, Prompt, Sampling, VersionSpan
from experience.server import EmbeddedServer
from recipes.reverse import write_model

Damage = Callable[[bytes], bytes]
RUNS = itertools.count()

FUNCTIONS = '''
"""Rewards that fail on demand: the row of the prompt says how."""
import math
import threading
from typing import Any

WAITING, GO_ON = threading.Event(), threading.Event()
NEVER = threading.Event()

def fragile(*, prompt: str, completion: str, metadata: dict[str, Any]) -> float:
    if metadata.get("fails") == "waits":
        WAITING.set()
        GO_ON.wait(timeout=20)
    if metadata.get("fails") == "hangs":
        NEVER.wait()
    if metadata.get("fails") == "dawdles":
        NEVER.wait(0.05)
    if metadata.get("fails") == "raises":
        raise RuntimeError("the judge is out")
    return math.nan if metadata.get("fails") == "nan" else float(len(completion))
'''


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is served again at once."""
    monkeypatch.setattr("experience.memory.BACK_OFF_S", 0.0)
    monkeypatch.setattr("experience.redis_buffer.BACK_OFF_S", 0.0)


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    write_model(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`module:function` of a reward that fails, or waits, as the `fails` of a row says."""
    name = f"fragile_rewards_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:fragile"


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    server = EmbeddedServer(tmp_path_factory.mktemp("server"))
    yield server.start()
    server.stop()


@pytest.fixture(params=["memory", "redis"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[[int], ExperienceBuffer]]:
    """connect(run_epoch): a client of one run's buffer."""
    clients: list[ExperienceBuffer] = []
    shared = MemoryServer()
    where = request.getfixturevalue("address") if request.param == "redis" else None
    run_id = f"run-{next(RUNS)}"

    def connect(run_epoch: int) -> ExperienceBuffer:
        if where is None:
            clients.append(MemoryBuffer(shared, run_epoch=run_epoch))
        else:
            config = ExperienceConfig(retry_s=5.0)
            clients.append(
                RedisBuffer(where.connect, run_id=run_id, config=config, run_epoch=run_epoch, trainer_epoch=0)
            )
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def buffer(connect: Callable[[int], ExperienceBuffer]) -> ExperienceBuffer:
    buffer = connect(1)
    buffer.open(fingerprint="f")
    buffer.raise_epoch(role="run", epoch=1)
    return buffer


@pytest.fixture
def complete(buffer: ExperienceBuffer, policy_folder: str) -> Callable[..., None]:
    """complete(rows, answers): issue a prompt a row and have each answered with these texts, in order.

    damage: what to do to the encoded group of a sequence before it is put.
    """
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)

    def encode(text: str) -> Any:
        return np.asarray(tokenizer(text)["input_ids"], dtype=np.int32)

    def answer(index: int, text: str) -> Completion:
        tokens = np.append(encode(text), np.int32(tokenizer.eos_token_id))
        return Completion(
            index=index,
            tokens=tokens,
            sampled=np.ones(len(tokens), dtype=np.bool_),
            behaviour_logprobs=np.full(len(tokens), -3.0, dtype=np.float32),
            spans=(VersionSpan(lineage=0, epoch=1, number=0, start=0, end=len(tokens)),),
            channels={},
            finish_reason="stop",
            seed=index,
        )

    def complete(rows: Sequence[dict[str, Any]], answers: Sequence[str], damage: Mapping[int, Damage] = {}) -> None:
        buffer.issue(
            [_prompt(sequence, row, encode("abc>"), len(answers)) for sequence, row in enumerate(rows)], cursor=0
        )
        leases = buffer.lease("prompts", worker="generation", count=len(rows), lease_s=60)
        for lease in leases:
            group = CompletionGroup(
                prompt=wire.decode(lease.data, Prompt),
                completions=tuple(answer(index, text) for index, text in enumerate(answers)),
                production=Production(
                    worker="generation", deliveries=1, queued_at=0.0, leased_at=0.0, waited_s=0.0, worked_s=0.0
                ),
            )
            data = wire.encode(group)
            buffer.advance([(lease, damage[lease.sequence](data) if lease.sequence in damage else data)])

    return complete


def _prompt(sequence: int, row: dict[str, Any], tokens: Any, group_size: int) -> Prompt:
    return Prompt(
        run_id="r",
        lineage=0,
        sequence=sequence,
        prompt_id=f"words:0:{sequence}",
        attempt=0,
        tokens=tokens,
        metadata={"prompt": "abc>", **row},
        group_size=group_size,
        sampling=Sampling(temperature=0.7, max_tokens=8, stop_token_ids=(2,), seed=0),
        min_version=0,
        deadline_s=60.0,
    )
