"""How a life holds its keys on a server of the user's own: by a name of its own, and anew where the server changed."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from experience_records import a_prompt
from orchestrator_recipes import a_recipe

from experience.buffer import BufferRefused, ExperienceBuffer
from experience.redis_client import Address
from experience.server import EmbeddedServer
from orchestrator import life, own_redis
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.stores import claim_name, forget_groups


@pytest.fixture
def servers(tmp_path) -> Iterator[list[Address]]:
    """Two that stand for servers of the user's own."""
    with ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            server = EmbeddedServer(tmp_path / name)
            found.append(server.start())
            stack.callback(server.stop)
        yield found


def on(server: Address) -> Recipe:
    return a_recipe(experience={"url": server.url, "password_file": server.password_file, "retry_s": 2.0})


@contextmanager
def a_life(server: Address, folder: Path, *, epoch: int = 1) -> Iterator[ExperienceBuffer]:
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with life._buffer(on(server), RunFolder(folder), epoch) as buffer:
        yield buffer


def test_lives_of_one_run_share_their_keys(servers, tmp_path):
    with a_life(servers[0], tmp_path / "runs" / "trial") as buffer:
        buffer.issue([a_prompt(0)], cursor=1)
    with a_life(servers[0], tmp_path / "runs" / "trial", epoch=2) as buffer:
        assert buffer.snapshot().live == 1


def test_another_run_of_the_same_name_and_recipe_is_refused(servers, tmp_path):
    with a_life(servers[0], tmp_path / "runs" / "trial") as buffer:
        buffer.issue([a_prompt(0)], cursor=1)
    another = RunFolder(tmp_path / "colleague" / "trial")
    with pytest.raises(BufferRefused, match="it is another run of this name"), a_life(servers[0], another.path):
        pass
    with pytest.raises(BufferRefused, match="another run of this name, and stay"):
        forget_groups(on(servers[0]), another)
    with a_life(servers[0], tmp_path / "runs" / "trial", epoch=2) as buffer:
        assert buffer.snapshot().live == 1


def test_what_an_earlier_server_still_holds_does_not_come_back(servers, tmp_path):
    """It is older than the ledger by then: groups among it may have been trained."""
    one, two = servers
    folder = tmp_path / "runs" / "trial"
    with a_life(one, folder) as buffer:
        buffer.issue([a_prompt(0)], cursor=1)
    with a_life(two, folder, epoch=2) as buffer:
        assert buffer.snapshot().next_sequence == 0
        buffer.issue([a_prompt(0), a_prompt(1)], cursor=2)
    with a_life(two, folder, epoch=3) as buffer:
        assert buffer.snapshot().next_sequence == 2
    with a_life(one, folder, epoch=4) as buffer:
        assert buffer.snapshot().next_sequence == 0


def test_a_removed_run_leaves_nothing_on_the_server(servers, tmp_path):
    folder = RunFolder(tmp_path / "runs" / "trial")
    with a_life(servers[0], folder.path) as buffer:
        buffer.issue([a_prompt(0)], cursor=1)
    admin = servers[0].connect()
    admin.set("somebody's", "own")
    assert claim_name(on(servers[0]), folder) == claim_name(on(servers[0]), folder)
    assert forget_groups(on(servers[0]), folder) > 0
    assert admin.keys() == [b"somebody's"]
    assert forget_groups(on(servers[0]), folder) == 0


def test_a_start_waits_for_a_server_and_says_so(tmp_path):
    server = EmbeddedServer(tmp_path / "later")
    address = server.start()
    server.stop()
    recipe = a_recipe(experience={"url": address.url, "password_file": address.password_file, "retry_s": 60})
    said: list[str] = []
    timer = threading.Timer(1.0, server.start)
    timer.start()
    own_redis.check_server(recipe, patient=True, warn=said.append)
    timer.join()
    server.stop()
    (line,) = said
    assert line.startswith(f"experience.url = {address.url}: {address.url} did not answer")
    assert line.endswith("waiting for it for up to 60 s")


def test_warnings_and_refusals_of_a_real_server_are_lines_with_the_key(servers, tmp_path):
    said: list[str] = []
    recipe = on(servers[0])
    own_redis.check_server(recipe, patient=True, warn=said.append)
    assert said == []
    Path(servers[0].password_file).chmod(0o644)
    servers[0].connect().config_set("appendfsync", "everysec")
    own_redis.check_server(recipe, patient=True, warn=said.append)
    shared, durable = said
    assert shared.startswith("experience.password_file = ")
    assert shared.endswith("others may read it; chmod 600 it")
    assert durable.startswith(f"experience.url = {servers[0].url}: appendfsync = everysec")
