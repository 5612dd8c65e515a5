"""What only a real server shows: refusals, other runs' keys, lost replies, retries, memory that is full."""

import socket
import threading
import time
from pathlib import Path

import pytest
import redis
from experience_records import a_batch, a_prompt, a_settlement

from experience.buffer import BufferFull, BufferRefused, BufferUnavailable
from experience.config import ExperienceConfig
from experience.redis_buffer import RedisBuffer
from experience.redis_client import Address
from experience.schema import SCHEMA_VERSION
from experience.server import EmbeddedServer


@pytest.fixture
def server(tmp_path, binary):
    embedded = EmbeddedServer(tmp_path / "redis", binary=binary)
    embedded.start()
    yield embedded
    embedded.stop()


def a_buffer(connect, *, run_id="r", retry_s=5.0):
    buffer = RedisBuffer(connect, run_id=run_id, config=ExperienceConfig(retry_s=retry_s), run_epoch=1, trainer_epoch=1)
    buffer.open(fingerprint="f")
    buffer.raise_epoch(role="run", epoch=1)
    buffer.raise_epoch(role="trainer", epoch=1)
    return buffer


class Proxy:
    """A unix socket before the server that can lose replies: the request arrives, then the connection breaks."""

    def __init__(self, target: str, path: Path) -> None:
        self.path = path
        self.lose_reply_to = b""
        """The connection breaks after the server answered a request that contains this."""
        self.lost = 0
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(inner,), daemon=True).start()

    def _serve(self, inner: socket.socket) -> None:
        with inner, socket.socket(socket.AF_UNIX) as outer:
            outer.connect(self._target)
            while request := inner.recv(1 << 20):
                outer.sendall(request)
                reply = outer.recv(1 << 20)
                if self.lose_reply_to and self.lose_reply_to in request and not reply.startswith(b"-NOSCRIPT"):
                    self.lose_reply_to = b""
                    self.lost += 1
                    return
                inner.sendall(reply)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxied(address, tmp_path_factory, request):
    proxy = Proxy(address.url.removeprefix("unix://"), tmp_path_factory.mktemp("p") / "s")
    through = Address(url=f"unix://{proxy.path}", password_file=address.password_file)
    buffer = a_buffer(through.connect, run_id=f"proxied-{request.node.name}")
    yield proxy, buffer
    buffer.close()
    proxy.close()


def lease(buffer, stage="prompts", *, lease_s=60.0):
    return buffer.lease(stage, worker="w", count=10, lease_s=lease_s)


def test_every_write_may_lose_its_reply(proxied):
    """Each call's reply is lost once; the retry must answer as the lost reply did, and double nothing."""
    proxy, buffer = proxied

    def losing(call):
        proxy.lose_reply_to = b"EVAL"
        before = proxy.lost
        answer = call()
        assert proxy.lost == before + 1
        return answer

    losing(lambda: buffer.issue([a_prompt(sequence) for sequence in range(4)], cursor=4))
    assert buffer.snapshot().depths["prompts"] == 4
    held = lease(buffer)
    assert losing(lambda: buffer.renew(held)) == set()
    assert losing(lambda: buffer.advance([(held[0], b"c"), (held[1], b"c")])) == [True, True]
    assert buffer.advance([(held[0], b"c")]) == [False]
    assert buffer.snapshot().depths["completions"] == 2
    assert losing(lambda: buffer.begin_alone(held[2], limit=1))
    losing(lambda: buffer.release(held[2], reason="r"))
    (suspect,) = lease(buffer)
    assert not losing(lambda: buffer.begin_alone(suspect, limit=1))
    assert [settlement.outcome for settlement in buffer.settled()] == ["quarantined"]
    losing(lambda: buffer.settle([0], outcome="dropped", reason="r"))
    losing(lambda: buffer.commit(a_batch(1, settled=(a_settlement(0), a_settlement(2)), next_sequence=4)))
    losing(lambda: buffer.restore(record=a_batch(1, next_sequence=0)))
    losing(buffer.take_over)
    snapshot = buffer.snapshot()
    assert (snapshot.live, snapshot.committed, snapshot.next_sequence) == (2, 1, 4)
    assert snapshot.depths == {"prompts": 1, "completions": 1, "experience": 0, "quarantine": 1}


def test_a_lease_whose_reply_was_lost_comes_back(proxied):
    proxy, buffer = proxied
    buffer.issue([a_prompt(0)], cursor=1)
    proxy.lose_reply_to = b"EVAL"
    assert lease(buffer) == []  # nobody knows that it holds it
    (again,) = buffer.lease("prompts", worker="w", count=1, lease_s=0.1, wait_s=20.0)
    assert again.deliveries == 2


def test_other_runs_are_neither_seen_nor_touched(server):
    server.client().mset({"foreign": "1", "headrace:{other}:meta": "2", "headrace:{r2}:issued": "3"})
    one, two = a_buffer(server.client, run_id="r"), a_buffer(server.client, run_id="rr")
    one.issue([a_prompt(0)], cursor=1)
    assert two.snapshot().live == 0
    two.issue([a_prompt(0)], cursor=1)
    one.commit(a_batch(1, settled=(a_settlement(0),), next_sequence=1))
    assert two.present() == {0}
    assert server.client().mget("foreign", "headrace:{other}:meta", "headrace:{r2}:issued") == [b"1", b"2", b"3"]
    for buffer in (one, two):
        buffer.close()


@pytest.mark.parametrize("run_id", ["", "a{b", "a}b", "a b"])
def test_a_run_id_that_breaks_the_keys_is_refused(server, run_id):
    with pytest.raises(ValueError, match="run_id = "):
        RedisBuffer(server.client, run_id=run_id, config=ExperienceConfig())


def test_refusals_name_key_value_and_remedy(server):
    a_buffer(server.client).close()
    client = server.client()

    def refused(match, *, run_id="r"):
        with pytest.raises(BufferRefused, match=match) as caught:
            a_buffer(server.client, run_id=run_id)
        assert "\n" not in str(caught.value)

    client.hset("headrace:{r}:meta", "schema", "0")
    refused(rf"headrace:\{{r\}}:meta: schema = 0, this headrace writes {SCHEMA_VERSION}; finish the run")
    client.hset("headrace:{r}:meta", "fingerprint", "x")
    refused(r"headrace:\{r\}:meta: fingerprint = x, this run has f; it is another run of this name")
    client.xadd("headrace:{s}:prompts", {"not": "ours"})
    refused("fingerprint = missing, beside other keys", run_id="s")
    client.config_set("maxmemory-policy", "allkeys-lru")
    refused("maxmemory-policy = allkeys-lru may evict groups; set it to noeviction", run_id="t")
    assert not client.exists("headrace:{t}:meta")


def test_a_wrong_password_is_refused_at_once(server, tmp_path):
    (tmp_path / "password").write_text("wrong")
    address = Address(url=server.address.url, password_file=str(tmp_path / "password"))
    start = time.monotonic()
    with pytest.raises(BufferRefused, match="refuses our password"):
        a_buffer(address.connect, retry_s=60.0)
    assert time.monotonic() - start < 30


def test_a_server_that_stays_away_is_reported_after_the_budget(server):
    buffer = a_buffer(server.client, retry_s=0.5)
    server.stop()
    start = time.monotonic()
    with pytest.raises(BufferUnavailable, match=r"unix:///.* did not answer for"):
        buffer.snapshot()
    assert 0.1 < time.monotonic() - start < 30
    buffer.close()


def test_close_ends_a_call_that_is_waiting_for_the_server(server):
    buffer = a_buffer(server.client, retry_s=60.0)
    server.stop()
    failed = threading.Event()

    def call():
        with pytest.raises(BufferUnavailable):
            buffer.snapshot()
        failed.set()

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.2)
    buffer.close()
    assert failed.wait(5)
    thread.join()


def test_a_call_goes_through_when_the_server_comes_back(server):
    buffer = a_buffer(server.client, retry_s=30.0)
    server.stop()
    timer = threading.Timer(0.3, server.start)
    timer.start()
    buffer.issue([a_prompt(0)], cursor=1)
    timer.join()
    assert buffer.snapshot().live == 1
    buffer.close()


def test_full_memory_stops_admission_at_once_and_whole(server):
    buffer = a_buffer(server.client, retry_s=60.0)
    buffer.issue([a_prompt(0), a_prompt(1)], cursor=2)
    held = lease(buffer)
    server.client().config_set("maxmemory", "1")
    began = time.monotonic()
    with pytest.raises(BufferFull, match=r"is full: .*raise experience\.memory_mib"):
        buffer.issue([a_prompt(2), a_prompt(3)], cursor=4)
    assert time.monotonic() - began < 10  # no retries: whoever asks has other work
    assert buffer.advance([(held[0], b"c" * 1000), (held[1], b"c")]) == [True, True]
    snapshot = buffer.snapshot()
    assert (snapshot.next_sequence, snapshot.cursor, snapshot.depths["completions"]) == (2, 2, 2)
    server.client().config_set("maxmemory", "0")
    buffer.issue([a_prompt(2), a_prompt(3)], cursor=4)
    buffer.close()


def test_full_memory_stops_nothing_else_not_even_a_new_life(server):
    """Nor does it matter that the server forgot the scripts, as one that was started again has."""
    first = a_buffer(server.client, retry_s=0.2)
    first.issue([a_prompt(sequence) for sequence in range(5)], cursor=5)
    lease(first)
    server.client().config_set("maxmemory", "1")
    server.client().script_flush()
    config = ExperienceConfig(retry_s=0.2)
    buffer = RedisBuffer(server.client, run_id="r", config=config, run_epoch=2, trainer_epoch=2)
    buffer.open(fingerprint="f")
    buffer.raise_epoch(role="run", epoch=2)
    buffer.raise_epoch(role="trainer", epoch=2)
    buffer.restore(record=a_batch(1, next_sequence=1))
    buffer.take_over()
    one, two, three, four = lease(buffer)
    assert buffer.begin_alone(one, limit=1)
    buffer.release(one, reason="failed")
    assert buffer.renew([two, three, four]) == set()
    buffer.settle([two.sequence], outcome="filtered", reason="all alike")
    assert buffer.advance([(three, b"c"), (four, b"c")]) == [True, True]
    (again,) = lease(buffer)
    assert not buffer.begin_alone(again, limit=1)
    assert [end.outcome for end in buffer.settled()] == ["quarantined", "filtered"]
    buffer.commit(a_batch(2, settled=tuple(buffer.settled()), next_sequence=5))
    assert buffer.snapshot().committed == 2
    with pytest.raises(BufferFull):
        buffer.issue([a_prompt(5)], cursor=6)
    first.close()
    buffer.close()


def test_redis_errors_of_our_own_making_are_not_hidden(server):
    buffer = a_buffer(server.client)
    server.client().set("headrace:{r}:issued", "a string where a hash should be")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        buffer.snapshot()
    buffer.close()
