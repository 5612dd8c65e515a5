"""The batch script, run against stand-ins for Slurm, Ray and the driver, and a real Redis. Seconds: 5."""

import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import own_servers
import pytest
from slurm_stub import Slurm

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "headrace.sbatch"
PATIENCE_S = 60.0


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    redis, nodes = own_servers.binary_of("redis"), "127.0.0.1,127.0.0.2,127.0.0.3"
    slurm = Slurm(tmp_path, script=SCRIPT, redis=redis, port=port, nodes=nodes)
    yield slurm
    slurm.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_near_the_time_limit_the_run_is_stopped_requeued_and_resumed(slurm: Slurm) -> None:
    job = slurm.start("recipe.yaml", "run.steps=9", HEADRACE_POOLS="generation=2 training=1")
    until(lambda: "run lives" in slurm.told())
    first = slurm.told()
    job.send_signal(signal.SIGUSR1)
    assert job.wait(PATIENCE_S) == 0
    after = slurm.told()[len(first) :]
    assert after[0] == "run stopped"
    assert sorted(after[1:-1]) == ["ray ended"] * 3
    assert after[-1] == "requeue 4711"  # when all have ended

    (plan, run) = (line for line in first if line.startswith("headrace"))
    assert run + " --dry-run --json" == plan
    assert f"run.root={slurm.folder}/runs ray.address=127.0.0.1:" in run
    assert (
        "ray.resources.generation.custom={generation: 1} ray.resources.training.custom={training: 1} run.steps=9" in run
    )
    heads = [line for line in first if line.startswith("ray") and "--head" in line]
    others = [line for line in first if line.startswith("ray") and "--address=127.0.0.1:" in line]
    assert (len(heads), len(others)) == (1, 2)
    assert "--node-ip-address=127.0.0.1 --num-gpus=0 --num-cpus=6" in heads[0]
    pools = [line.split('--resources={"')[1].split('"')[0] for line in (*heads, *others)]
    assert sorted(pools) == ["generation", "generation", "training"]

    again = slurm.start("recipe.yaml", "run.steps=9")
    until(lambda: "run lives" in slurm.told())
    assert any(line.startswith(f"headrace resume {slurm.folder}/runs/trial run.root=") for line in slurm.told())
    again.send_signal(signal.SIGTERM)  # scancel, or Slurm that preempts: whether to requeue is Slurm's to say
    assert again.wait(PATIENCE_S) == 0
    assert "requeue 4711" not in slurm.told()


def test_a_run_that_fails_fails_the_job_and_leaves_nothing_behind(slurm: Slurm) -> None:
    job = slurm.start("recipe.yaml", "run.steps=0")
    assert job.wait(PATIENCE_S) == 3
    assert slurm.told().count("ray ended") == 3
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", slurm.port), timeout=5)


def test_secrets_are_in_files_of_the_user_alone_and_in_no_argument(slurm: Slurm) -> None:
    job = slurm.start("recipe.yaml")
    until(lambda: "run lives" in slurm.told())
    password = (slurm.folder / ".headrace" / "redis.password").read_text()
    token = (slurm.folder / ".headrace" / "4711" / "ray.token").read_text()
    assert len(password) == len(token) == 48
    assert not any(secret in slurm.notes.read_text() for secret in (password, token))
    for file in (slurm.folder / ".headrace").rglob("*"):
        assert not file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), file
    from redis import Redis

    server = Redis(port=slurm.port, password=password)
    settings = server.config_get("appendonly", "appendfsync", "maxmemory-policy")
    assert settings == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    job.terminate()
    assert job.wait(PATIENCE_S) == 0


def test_a_redis_of_the_users_own_is_used(slurm: Slurm) -> None:
    job = slurm.start("recipe.yaml", "experience.url=rediss://elsewhere:6380/0")
    until(lambda: "run lives" in slurm.told())
    assert not (slurm.folder / ".headrace" / "redis").exists()
    assert all("experience.password_file" not in line for line in slurm.told())
    job.terminate()
    assert job.wait(PATIENCE_S) == 0
