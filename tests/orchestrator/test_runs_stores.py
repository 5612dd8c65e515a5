"""Removing runs that keep their blobs in a bucket, or their groups on a server of the user's own: theirs go, no other's."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from orchestrator_folders import a_run, sections, write_model, write_rows

from experience.server import EmbeddedServer
from orchestrator import cli, removal, yamlfile
from orchestrator import recipe as recipes
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.runs import entry
from orchestrator.stores import check_store, claim_name, open_buffer, open_store
from weightstore.epochs import claim_epoch


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """In the part of a Redis of the user's own, by its address and its password's file."""
    server = EmbeddedServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def on(server: EmbeddedServer, folder: Path, name: str) -> RunFolder:
    """A run with a claim on the server, and a group."""
    settings = {"url": server.address.url, "password_file": server.address.password_file, "retry_s": 0.5}
    run = a_run(folder, name, state="failed", experience=settings)
    recipe = recipes.load_dumped(run.recipe)
    buffer = open_buffer(recipe, run, run_epoch=1, trainer_epoch=1)
    buffer.open(fingerprint=claim_name(recipe, run))
    buffer.raise_epoch(role="run", epoch=1)
    buffer.close()
    return run


def keys(client: redis.Redis) -> set[str]:
    return {key.decode().partition("}")[0] for key in client.scan_iter()}


def test_only_this_runs_keys_go(tmp_path, server):
    run, _ = on(server, tmp_path, "trial"), on(server, tmp_path, "trial-2")
    with server.client() as client:
        client.set("headrace:other", "theirs")
        removal.remove(run.path)
        assert keys(client) == {"headrace:{trial-2", "headrace:other"}
    assert server.pid is not None
    assert os.listdir(tmp_path / "runs") == ["trial-2"]


def test_a_server_that_is_gone_keeps_the_run_until_the_user_gives_it_up(tmp_path, server):
    run = on(server, tmp_path, "trial")
    server.stop()
    with pytest.raises(RunFailed, match=r"experience\.url = unix://.* leave its groups there with --leave-server"):
        removal.remove(run.path)
    assert run.read_status()["state"] == "removing"
    removal.remove(run.path, leave_server=True)
    assert os.listdir(tmp_path / "runs") == []


def test_the_runs_own_server_never_outlives_its_folder(tmp_path):
    """Whatever is said of a server of the user's: this one a killed driver left behind."""
    run = a_run(tmp_path, "trial", state="failed")
    server = EmbeddedServer(run.redis)
    server.start()
    with server.client() as client:
        client.ping()  # on a connection that stays open as long as the server lives
        removal.remove(run.path, leave_server=True)
        with pytest.raises(redis.ConnectionError):
            client.ping()


def test_another_holder_of_the_name_keeps_its_groups(tmp_path, server):
    """Two users, one name: whoever did not get the server holds nothing there."""
    on(server, tmp_path / "mine", "trial")
    settings = {"url": server.address.url, "password_file": server.address.password_file}
    theirs = a_run(tmp_path / "theirs", "trial", state="failed", experience=settings)
    with pytest.raises(RunFailed, match="of another run of this name, and stay"):
        removal.remove(theirs.path)
    with server.client() as client:
        assert keys(client) == {"headrace:{trial"}
    removal.remove(theirs.path, leave_server=True)
    with server.client() as client:
        assert keys(client) == {"headrace:{trial"}


def test_a_bucket_loses_this_runs_blobs_alone(tmp_path, s3_url):
    runs = [a_run(tmp_path, name, state="completed", store=s3_url) for name in ("trial", "trial-2")]
    stores = [open_store(recipes.load_dumped(run.recipe), run) for run in runs]
    for store in stores:
        for key in ("ledger/0/00000001.batch", "weights/0/e1/v1/manifest.json", "identity"):
            store.put_if_absent(key, b"x")
    shown = entry(runs[0].path)
    assert (shown.store, shown.store_bytes) == (f"{s3_url}/trial", None)
    assert f"all blobs in {s3_url}/trial" in removal.describe(runs[0].path)
    removal.remove(runs[0].path)
    assert [len(store.list("")) for store in stores] == [0, 3]
    assert os.listdir(tmp_path / "runs") == ["trial-2"]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_store_that_holds_a_run_of_this_name_takes_no_second_one(tmp_path, kind, request, monkeypatch, capsys):
    """A run on another machine, or one whose folder was deleted by hand: the new one would fence it and go on with its ledger."""
    url = request.getfixturevalue("s3_url") if kind == "bucket" else str(tmp_path / "store")
    write_rows(tmp_path / "d.jsonl", [{"prompt": "abc"}])
    changes = {"model__path": str(write_model(tmp_path / "m")), "run__root": str(tmp_path / "mine")}
    (tmp_path / "trial.yaml").write_text(yamlfile.render(sections(store__url=url, **changes)))
    recipe = recipes.load(tmp_path / "trial.yaml")
    claim_epoch(open_store(recipe, RunFolder(tmp_path / "theirs" / "trial")), kind="orchestrator", life={})
    monkeypatch.setattr("orchestrator.life.live", lambda *_, **__: pytest.fail("went on"))
    monkeypatch.setattr(sys, "argv", ["headrace", "run", str(tmp_path / "trial.yaml")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"headrace: run.name = trial: {url}/trial holds a run already, whose folder is not {tmp_path}/mine/trial; "
    )
    assert not (tmp_path / "mine").exists()
    check_store(recipe, RunFolder(tmp_path / "mine" / "trial"), fresh=False)
