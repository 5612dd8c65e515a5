"""The implementations that the contract runs on: memory, and a real server."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from own_servers import KINDS, binary_of, guarded_server

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


@pytest.fixture(scope="session", params=KINDS)
def binary(request: pytest.FixtureRequest) -> str:
    """Path of a real server: whatever takes it runs on the oldest Redis that is supported, and on the newest Valkey."""
    return binary_of(request.param)


@pytest.fixture
def address(binary: str, addresses: Callable[[str], Address]) -> Address:
    return addresses("valkey" if binary == binary_of("valkey") else "redis")


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is served again at once; the test of the back-off sets its own."""
    monkeypatch.setattr("experience.memory.BACK_OFF_S", 0.0)
    monkeypatch.setattr("experience.redis_buffer.BACK_OFF_S", 0.0)


@pytest.fixture(scope="session")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Address]]:
    """Kind -> where one server of it answers, started at the first call."""
    found: dict[str, Address] = {}
    with ExitStack() as servers:

        def address_of(kind: str) -> Address:
            if kind not in found:
                folder = tmp_path_factory.mktemp(kind)
                if kind == "tls":
                    found[kind] = guarded_server(servers, folder)
                else:
                    server = EmbeddedServer(folder, binary=binary_of(kind))
                    servers.callback(server.stop)
                    found[kind] = server.start()
            return found[kind]

        yield address_of


@pytest.fixture(params=["memory", *KINDS, "tls"])
def backend(request: pytest.FixtureRequest, addresses: Callable[[str], Address]) -> Iterator[Backend]:
    """tls: a Redis of the user's own, behind TLS, as a user with the documented rights alone."""
    if request.param == "memory":
        server = MemoryServer()
        yield Backend("memory", lambda run, trainer: MemoryBuffer(server, run_epoch=run, trainer_epoch=trainer))
        return
    where = addresses(request.param)
    run_id = f"run-{next(_runs)}"
    clients = []

    def connect(run: int, trainer: int) -> RedisBuffer:
        clients.append(RedisBuffer(where.connect, run_id=run_id, config=CONFIG, run_epoch=run, trainer_epoch=trainer))
        return clients[-1]

    yield Backend(request.param, connect)
    for client in clients:
        client.close()


@pytest.fixture
def buffer(backend: Backend) -> ExperienceBuffer:
    return backend.opened()
