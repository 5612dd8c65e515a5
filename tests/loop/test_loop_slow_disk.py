"""What the embedded server has acknowledged outlives it, however slow its disk is. Three seconds, of slow syncs."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from slow_disk import SlowDisk

from experience.server import EmbeddedServer


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(tmp_path)
    for name, value in disk.environment.items():
        monkeypatch.setenv(name, value)
    yield disk
    EmbeddedServer(tmp_path / "redis").stop()


def test_a_kill_loses_nothing_that_was_acknowledged(disk: SlowDisk, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "redis")
    server.start()
    written = list(map(str, range(4)))
    with server.client() as client:
        disk.slow()
        for entry in written:
            client.rpush("acknowledged", entry)
    assert disk.felt
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    disk.mend()
    server.start()
    with server.client() as client:
        assert [entry.decode() for entry in client.lrange("acknowledged", 0, -1)] == written
