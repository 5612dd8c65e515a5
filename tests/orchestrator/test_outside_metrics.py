"""What the driver asks of Redis, and a worker of NVML, in the shape of metrics. A second, and a server's start."""

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from own_servers import binary_of
from prometheus_client import REGISTRY, CollectorRegistry

from experience.config import ExperienceConfig
from experience.redis_buffer import RedisBuffer
from experience.server import EmbeddedServer
from orchestrator import gpu_metrics
from orchestrator.gpu_metrics import GpuCollector, export_gpus
from orchestrator.redis_state import LOOK_S, NOTHING, RedisState

INFO = {
    "used_memory": 1000,
    "maxmemory": 4000,
    "aof_enabled": 1,
    "aof_last_write_status": "err",
    "aof_delayed_fsync": 2,
    "aof_current_size": 555,
    "connected_clients": 7,
}


def seen(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"headrace_redis_{name}")


class Server:
    """Answers, or fails."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    def ask(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_servers_state_is_asked_for_at_its_pace() -> None:
    server, state = Server(INFO), RedisState()
    for now in (0.0, LOOK_S / 2, LOOK_S, 1.5 * LOOK_S):
        state.tick(now, server.ask)
    assert server.asked == 2
    assert state.seen == {"used_bytes": 1000, "limit_bytes": 4000, "aof_ok": False}
    names = (
        "up",
        "memory_bytes",
        "memory_limit_bytes",
        "aof_enabled",
        "aof_write_ok",
        "aof_delayed_fsyncs",
        "aof_bytes",
    )
    assert [seen(name) for name in (*names, "clients")] == [1, 1000, 4000, 1, 0, 2, 555, 7]


def test_a_server_that_is_gone_is_down_and_hurts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server, state = Server(INFO), RedisState()
    state.tick(0.0, server.ask)
    server.answer = redis.ConnectionError("refused")
    for looks in (1, 2, 3):
        state.tick(looks * LOOK_S, server.ask)
        assert (seen("up"), state.seen) == (0, NOTHING)
    assert len(caplog.messages) == 1  # for an outage of any length
    server.answer = INFO
    state.tick(4 * LOOK_S, server.ask)
    assert (seen("up"), state.seen["used_bytes"]) == (1, 1000)
    server.answer = redis.ConnectionError("refused")
    state.tick(5 * LOOK_S, server.ask)
    assert len(caplog.messages) == 2


def test_a_server_that_tells_less_than_redis_ends_no_run() -> None:
    server, state = Server({"used_memory": 1234}), RedisState()
    state.tick(0.0, server.ask)
    assert state.seen == {"used_bytes": 1234, "limit_bytes": None, "aof_ok": None}
    assert (seen("up"), seen("memory_bytes")) == (1, 1234)


def test_a_forbidden_question_is_not_asked_again() -> None:
    server, state = Server(redis.exceptions.NoPermissionError("this user has no permissions")), RedisState()
    for now in (0.0, LOOK_S, 2 * LOOK_S):
        state.tick(now, server.ask)
    assert (server.asked, seen("up"), state.seen) == (1, 1, NOTHING)


def test_a_buffer_without_a_server_says_nothing() -> None:
    server, state = Server({}), RedisState()
    state.tick(0.0, server.ask)
    assert state.seen == NOTHING


def test_a_real_server_and_its_death(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "redis", binary=binary_of("redis"), memory_mib=64)
    server.start()
    buffer = RedisBuffer(server.client, run_id="r", config=ExperienceConfig())
    state = RedisState()
    try:
        state.tick(0.0, buffer.server_info)
        assert state.seen["limit_bytes"] == 64 * 2**20
        assert state.seen["aof_ok"] is True
        assert 0 < state.seen["used_bytes"] < 64 * 2**20
        assert (seen("up"), seen("aof_enabled"), seen("aof_write_ok")) == (1, 1, 1)
    finally:
        server.stop()
    state.tick(LOOK_S, buffer.server_info)
    assert seen("up") == 0
    buffer.close()


# -- GPUs

Memory, Rates = namedtuple("Memory", "used total"), namedtuple("Rates", "gpu")


class FakeNvml:
    """pynvml, with two devices, and a part of one (MIG), which tells no use."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index > 1:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return {"GPU-aa": 0, "GPU-bb": 1, "MIG-cc": 2}[uuid]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:  # noqa: N802
        return Memory(used=(handle + 1) * 10, total=100)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Rates:  # noqa: N802
        if handle == 2:
            raise self.NVMLError("Not Supported")
        return Rates(gpu=50 + handle)


def figures(visible: str | None) -> dict[str, tuple[float | None, ...]]:
    """By label: used, total, busy."""
    registry = CollectorRegistry()
    registry.register(GpuCollector(FakeNvml(), visible=visible))
    names = ("headrace_gpu_memory_used_bytes", "headrace_gpu_memory_bytes", "headrace_gpu_busy_ratio")
    found = {gpu: tuple(registry.get_sample_value(name, {"gpu": gpu}) for name in names) for gpu in ("0", "1")}
    return {gpu: values for gpu, values in found.items() if values != (None, None, None)}


def test_devices_that_the_process_may_use_are_numbered_from_0() -> None:
    assert figures(None) == {"0": (10, 100, 0.5), "1": (20, 100, 0.51)}
    assert figures("1") == {"0": (20, 100, 0.51)}
    assert figures("GPU-bb, GPU-aa") == {"0": (20, 100, 0.51), "1": (10, 100, 0.5)}
    assert figures("7,0") == {"1": (10, 100, 0.5)}  # one that does not answer is left out
    assert figures("MIG-cc") == {"0": (30, 100, None)}
    assert figures("") == {}


def test_gpus_are_exported_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, Any] = {"pynvml": FakeNvml(), "broken": FakeNvml(broken=True)}
    fake = SimpleNamespace(import_module=lambda name: modules.get(name) or _missing(name))
    monkeypatch.setattr(gpu_metrics, "importlib", fake)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    registry = CollectorRegistry()
    assert export_gpus(registry=registry)
    assert registry.get_sample_value("headrace_gpu_memory_used_bytes", {"gpu": "0"}) == 10
    assert not export_gpus(module="broken", registry=CollectorRegistry())
    assert not export_gpus(module="nothing", registry=CollectorRegistry())


def _missing(name: str) -> None:
    raise ImportError(name)
