"""A Redis of the user's own: what is refused at the start, what is warned of, TLS, users, and several runs on it."""

import re
import resource
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib import resources

import pytest
from experience_records import a_batch, a_prompt, a_settlement
from own_servers import OwnServer, free_port, guarded_server

from experience import own_server
from experience.buffer import BufferRefused, BufferUnavailable, Fenced
from experience.config import PASSWORD_VARIABLE, ExperienceConfig
from experience.own_server import examine
from experience.redis_buffer import RedisBuffer
from experience.redis_client import Address


@pytest.fixture
def own(binary, tmp_path):
    server = OwnServer(binary, tmp_path / "own")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def user(own, tmp_path):
    """Address of the documented user on `own`."""
    own.allow()
    (tmp_path / "password").write_text("PASSWORD\n")
    return Address(url=own.url, username="headrace", password_file=str(tmp_path / "password"))


def look(address, *, retry_s=0.0):
    return examine(address, run_id="r", retry_s=retry_s)


def refusal(address):
    with pytest.raises(BufferRefused) as caught:
        look(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def a_run(address, run_id, *, fingerprint="f", epoch=1, retry_s=5.0):
    config = ExperienceConfig(retry_s=retry_s)
    buffer = RedisBuffer(address.connect, run_id=run_id, config=config, run_epoch=epoch, trainer_epoch=epoch)
    buffer.open(fingerprint=fingerprint)
    buffer.raise_epoch(role="run", epoch=epoch)
    buffer.raise_epoch(role="trainer", epoch=epoch)
    return buffer


# -- what is looked at before a run begins -----------------------------------------------------------------------------
def test_a_durable_server_and_the_documented_user_leave_nothing_to_say(own, user):
    assert look(user) == ()
    assert own.admin().keys() == []  # nothing is left by the look


def test_what_is_less_durable_is_said(own, user):
    own.admin().config_set("appendfsync", "everysec")
    assert re.match(r"appendfsync = everysec: .* loses acknowledged writes", *look(user))
    own.allow("-config|get")
    assert re.match(r"appendfsync cannot be read", *look(user))
    own.admin().config_set("appendonly", "no")
    assert re.match(r"appendonly = no: a restart of the server loses", *look(user))


def test_an_eviction_policy_and_a_replica_are_refused(own, user):
    own.admin().config_set("maxmemory-policy", "allkeys-lru")
    assert "maxmemory-policy = allkeys-lru may evict groups; set it to noeviction" in refusal(user)
    own.admin().config_set("maxmemory-policy", "noeviction")
    own.admin().replicaof("127.0.0.1", 1)
    assert "role = replica of 127.0.0.1:1: it takes no writes; name the primary" in refusal(user)


def test_cluster_mode_is_refused(binary, tmp_path):
    server = OwnServer(
        binary,
        tmp_path / "cluster",
        options={"cluster-enabled": "yes", "cluster-port": str(free_port()), "bind": "127.0.0.1"},
    )
    server.start()
    try:
        assert "its mode is cluster: clients follow no redirections" in refusal(Address(url=server.url))
    finally:
        server.kill()


def test_an_old_version_is_refused(own, monkeypatch):
    monkeypatch.setattr("experience.own_server.OLDEST_MAJOR", 99)
    assert re.search(
        r"redis_version = 7\.\d+\.\d+: Redis 99\.0 or newer, or Valkey, is needed", refusal(Address(url=own.url))
    )


@pytest.mark.parametrize(
    ("less", "named"),
    [
        ("-xadd -hget", r"may not run HGET, XADD on headrace:\{r\}:"),
        ("-xgroup|create", "may not run XGROUP CREATE"),
        ("-xread", "may not run XREAD"),
        ("-info", "forbids our user what a run needs: .*info"),
        ("-eval", "forbids our user what a run needs: .*eval"),
        ("-evalsha", "forbids our user what a run needs: .*evalsha"),
        ("resetkeys ~another:*", "forbids our user what a run needs: .*key"),
    ],
)
def test_missing_rights_are_named(own, user, less, named):
    own.allow(*less.split())
    assert re.search(named, refusal(user))


def test_every_command_of_the_scripts_is_tried():
    """A script that learns a new command must add it to the rights that are checked, and to the documented user's."""
    texts = {f.name: f.read_text() for f in (resources.files("experience") / "scripts").iterdir()}
    optional = {"TIME"}  # ages.lua does without
    called = {name for text in texts.values() for name in re.findall(r"redis\.p?call\('(\w+)'", text)}
    tried = set(re.findall(r"try\('[\w ]+', '(\w+)'", texts["rights.lua"]))
    assert called - {"UNLINK"} - optional <= tried
    assert "UNLINK" in tried


def test_a_wrong_password_and_none_are_refused_with_the_remedy(own, user, tmp_path):
    (tmp_path / "password").write_text("sesame")
    text = refusal(user)
    assert "refuses our password" in text
    assert "experience.password_file" in text
    assert "sesame" not in text
    own.admin().config_set("requirepass", "x")
    assert "refuses our password" in refusal(Address(url=own.url))


def test_a_database_that_the_server_lacks_is_refused(own, user):
    own.allow("+select")
    assert "DB index is out of range; correct the address" in refusal(replace(user, url=f"{own.url}?db=99"))


def test_the_environment_may_hold_the_password(own, user, monkeypatch):
    named = ExperienceConfig(url=own.url, username="headrace")
    own.allow(">sesame")
    monkeypatch.setenv(PASSWORD_VARIABLE, "sesame")
    assert look(Address.of(named)) == ()
    assert "sesame" not in repr(Address.of(named))


def test_a_server_that_does_not_answer_is_named(own, user):
    own.kill()
    with pytest.raises(BufferUnavailable, match=r"unix:///.* did not answer"):
        look(user)


@pytest.mark.parametrize("policy", ["everysec", "always"])
def test_a_full_disk_is_named_in_the_servers_own_words(own, user, policy):
    """Files may not grow, as on a full disk: under everysec the server answers MISCONF, under always it ends itself."""
    own.admin().config_set("appendfsync", policy)
    buffer = a_run(user, "full", retry_s=1.5)
    log = max((own.folder / "appendonlydir").glob("*.incr.aof"))
    resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, resource.RLIM_INFINITY))

    def issue_many():
        for sequence in range(100):
            buffer.issue([a_prompt(sequence)], cursor=sequence + 1)
            time.sleep(0.1)  # everysec: the server writes behind its answers

    with pytest.raises(BufferUnavailable) as caught:
        issue_many()
    named = (
        r"refused our writes for .*MISCONF Errors writing to the AOF file" if policy == "everysec" else "did not answer"
    )
    assert re.search(named, str(caught.value))
    buffer.close()


def test_a_server_that_was_killed_goes_on_where_it_was(own, user):
    """appendfsync always: what was acknowledged is there again, for the same client."""
    buffer = a_run(user, "again", retry_s=60.0)
    buffer.issue([a_prompt(sequence) for sequence in range(20)], cursor=20)
    leases = buffer.lease("prompts", worker="w", count=20, lease_s=60)
    assert all(buffer.advance([(held, b"c" * 1000) for held in leases[:15]]))
    before = (buffer.snapshot(), buffer.present())
    own.kill()
    timer = threading.Timer(0.3, own.start)
    timer.start()
    assert (buffer.snapshot(), buffer.present()) == before
    assert all(buffer.advance([(held, b"c") for held in leases[15:]]))
    timer.join()
    buffer.close()


# -- TLS ---------------------------------------------------------------------------------------------------------------
def test_tls_checks_the_authority_the_host_name_and_the_client(tmp_path):
    with ExitStack() as stack:
        address = guarded_server(stack, tmp_path / "tls")
        assert look(address) == ()
        other = replace(address, ca_file=str(tmp_path / "tls" / "other.pem"))
        assert "shows a certificate that is not trusted" in refusal(other)
        by_name = replace(address, url=address.url.replace("127.0.0.1", "localhost"))
        text = refusal(by_name)
        assert "not trusted" in text
        assert "localhost" in text
        with pytest.raises(BufferUnavailable, match=r"rediss://127\.0\.0\.1:\d+ did not answer"):
            look(replace(address, certificate_file="", key_file=""))
        with pytest.raises(BufferUnavailable):
            look(replace(address, url=address.url.replace("rediss", "redis")))


@pytest.mark.parametrize(
    ("url", "warned"),
    [("redis://127.0.0.1:1", False), ("redis://localhost:1", False), ("redis://[::1]:1", False), ("unix:///x/y", False),
     ("redis://10.1.2.3:1", True), ("redis://redis.example.org", True), ("rediss://redis.example.org", False)],
)  # fmt: skip
def test_plain_text_across_a_network_is_warned_of(url, warned):
    warning = own_server.unencrypted(url)
    assert bool(warning) == warned
    assert ("unencrypted; use rediss://" in warning) == warned


# -- several runs on one server ----------------------------------------------------------------------------------------
def test_two_runs_side_by_side_see_nothing_of_each_other(own, user):
    own.admin().set("somebody's", "own")
    one, two = a_run(user, "one"), a_run(user, "two")
    one.issue([a_prompt(sequence) for sequence in range(3)], cursor=3)
    two.issue([a_prompt(0)], cursor=1)
    assert [lease.sequence for lease in two.lease("prompts", worker="w", count=9, lease_s=60)] == [0]
    one.commit(a_batch(1, settled=(a_settlement(0),), next_sequence=3))
    one.raise_epoch(role="run", epoch=7)
    assert (two.snapshot().live, two.snapshot().committed) == (1, 0)
    two.issue([a_prompt(1)], cursor=2)
    keys = set(own.admin().keys())
    assert all(key == b"somebody's" or key.startswith((b"headrace:{one}:", b"headrace:{two}:")) for key in keys)

    with pytest.raises(BufferRefused, match="another run of this name"):
        a_run(user, "two", fingerprint="g")
    with pytest.raises(BufferRefused, match="and stay"):
        two.forget(fingerprint="g")
    gone = {key for key in keys if key.startswith(b"headrace:{two}:")}
    assert two.forget(fingerprint="f") == len(gone)
    assert set(own.admin().keys()) == keys - gone
    assert one.present() == {1, 2}
    with pytest.raises(Fenced):
        two.issue([a_prompt(2)], cursor=3)
    for buffer in (one, two):
        buffer.close()
