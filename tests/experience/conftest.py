"""The implementations that the contract runs on: memory, and a real server."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from experience.buffer import ExperienceBuffer
from experience.config import ExperienceConfig
from experience.memory import MemoryBuffer, MemoryServer
from experience.redis_buffer import RedisBuffer
from experience.redis_client import Address
from experience.server import EmbeddedServer

CONFIG = ExperienceConfig(retry_s=5.0)
_runs = itertools.count()


@dataclass
class Backend:
    """One fresh run's keys on one implementation."""

    name: str
    connect: Callable[[int, int], ExperienceBuffer]
    """(run epoch, trainer epoch) -> a client of its own."""

    def opened(self) -> ExperienceBuffer:
        """A client with epoch 1 of both roles, raised."""
        buffer = self.connect(1, 1)
        buffer.open(fingerprint="f")
        buffer.raise_epoch(role="run", epoch=1)
        buffer.raise_epoch(role="trainer", epoch=1)
        return buffer


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    server = EmbeddedServer(tmp_path_factory.mktemp("server"))
    yield server.start()
    server.stop()


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "memory":
        server = MemoryServer()
        yield Backend("memory", lambda run, trainer: MemoryBuffer(server, run_epoch=run, trainer_epoch=trainer))
        return
    where = request.getfixturevalue("address")
    run_id = f"run-{next(_runs)}"
    clients = []

    def connect(run: int, trainer: int) -> RedisBuffer:
        clients.append(RedisBuffer(where.connect, run_id=run_id, config=CONFIG, run_epoch=run, trainer_epoch=trainer))
        return clients[-1]

    yield Backend("redis", connect)
    for client in clients:
        client.close()


@pytest.fixture
def buffer(backend: Backend) -> ExperienceBuffer:
    return backend.opened()
