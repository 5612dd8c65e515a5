"""`headrace runs rm`: all of a run goes, nothing else does, and what was interrupted can be repeated."""

import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from orchestrator_folders import a_run

from experience.server import EmbeddedServer
from orchestrator import cli, removal
from orchestrator.folder import RunAlive, RunFolder
from orchestrator.subcommands import runs as runs_commands
from weightstore.blobs import FileBlobStore, StoreError


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rm(monkeypatch, capsys):
    """rm(arguments...) -> exit code, output, errors."""

    def rm(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headrace", "runs", "rm", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return rm


def filled(here: Path, name: str, **run: object) -> RunFolder:
    folder = a_run(here, name, **run)
    store = FileBlobStore(Path(str(run["store"])) / name if "store" in run else folder.path)
    for key in (
        "weights/0/e1/v1/manifest.json",
        "ledger/0/00000001.batch",
        "checkpoints/0/1/rank-0",
        "epochs/000001.json",
    ):
        store.put_if_absent(key, b"x" * 1000)
    return folder


def test_a_run_goes_with_all_that_it_holds_and_says_what_that_is(here, rm):
    folder = filled(here, "trial", state="completed", step=4, steps=4)
    filled(here, "other", state="completed")
    code, out, err = rm("trial", "--yes")
    assert (code, err) == (0, "")
    said, removed = out.splitlines()
    assert said.startswith(f"{folder.path}: completed at step 4 of 4, ")
    assert said.endswith(" kB with weights, checkpoints, ledger, logs")
    assert removed == f"removed {folder.path}"
    assert os.listdir(here / "runs") == ["other"]
    assert rm("trial", "--yes")[0] == 2


def test_a_store_elsewhere_loses_this_runs_blobs_alone(here, rm):
    filled(here, "trial", state="failed", store=here / "store")
    filled(here, "trial-2", state="failed", store=here / "store")
    code, out, _ = rm("trial", "--yes")
    assert code == 0
    assert f"and all blobs in {here}/store/trial (" in out
    assert os.listdir(here / "store") == ["trial-2"]
    assert len(FileBlobStore(here / "store/trial-2").list("")) == 4
    assert os.listdir(here / "runs") == ["trial-2"]


def test_a_living_run_stays_and_so_do_those_named_beside_it(here, rm):
    filled(here, "dead", state="failed")
    folder = filled(here, "alive", state="running")
    with folder.locked():
        code, _, err = rm("dead", "alive", "--yes")
        assert code == 2
        assert f"alive: the run is alive (driver process {os.getpid()}); `headrace stop` it first" in err
        with pytest.raises(RunAlive):  # one that began after the question
            removal.remove(folder.path)
    assert sorted(os.listdir(here / "runs")) == ["alive", "dead"]
    assert folder.read_status()["state"] == "running"


def test_without_an_answer_nothing_goes(here, rm, monkeypatch):
    filled(here, "trial", state="completed")
    code, _, err = rm("trial")
    assert (code, "--yes removes what is listed above" in err) == (2, True)
    monkeypatch.setattr(runs_commands, "_confirmed", lambda question: False)
    assert rm("trial")[0] == 1
    assert os.listdir(here / "runs") == ["trial"]
    monkeypatch.setattr(runs_commands, "_confirmed", lambda question: question == "remove 1 run for good?")
    assert rm("trial")[0] == 0
    assert os.listdir(here / "runs") == []


def test_filters_choose_by_state_and_age(here, rm):
    for name, state, day in [("a", "completed", 1), ("b", "completed", 30), ("c", "failed", 30), ("d", "running", 30)]:
        folder = filled(here, name, state=state)
        stamp = folder.status.stat().st_mtime - timedelta(days=day).total_seconds()
        os.utime(folder.status, (stamp, stamp))
    assert rm("--state", "completed", "--older-than", "7d", "--yes")[0] == 0
    assert sorted(os.listdir(here / "runs")) == ["a", "c", "d"]
    assert rm("a", "c", "--older-than", "2w", "--yes")[0] == 0
    assert sorted(os.listdir(here / "runs")) == ["a", "d"]
    assert rm("--state", "dead", "--yes", "--root", "runs")[0] == 0
    assert os.listdir(here / "runs") == ["a"]
    assert rm("--older-than", "1w", "--yes")[1] == "no run to remove\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "name a RUN, or choose with --state or --older-than"),
        (("--older-than", "soon"), "--older-than = soon: no age"),
        (("--state", "done"), "--state = done: there is no such state; name one of new, "),
        (("nope",), "RUN = nope: no run there"),
        (("runs",), "RUN = runs: no run there"),
        (("notes",), "RUN = notes: no run there"),
        (("link",), "is a link, and links are not followed"),
    ],
)
def test_what_is_no_run_is_refused(here, rm, arguments, reason):
    target = filled(here / "elsewhere", "link", state="completed")
    (here / "runs").mkdir()
    (here / "runs/link").symlink_to(target.path)
    (here / "runs/notes").mkdir()
    (here / "runs/notes/recipe.yaml").write_text("of my own\n")
    code, out, err = rm(*arguments, "--yes")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err
    assert (target.path / "ledger/0/00000001.batch").is_file()
    assert (here / "runs/notes/recipe.yaml").is_file()


def test_links_in_a_run_go_and_what_they_point_at_stays(here, rm):
    folder = filled(here, "trial", state="completed")
    (here / "precious").mkdir()
    (here / "precious/file").write_text("keep")
    (folder.path / "logs/elsewhere").symlink_to(here / "precious")
    assert rm("trial", "--yes")[0] == 0
    assert (here / "precious/file").read_text() == "keep"


def test_an_interrupted_removal_is_no_run_to_resume_and_can_be_repeated(here, rm, monkeypatch):
    folder = filled(here, "trial", state="completed", store=here / "store")
    delete, deleted = FileBlobStore.delete, []

    def die_at_the_third(store: FileBlobStore, key: str) -> None:
        if len(deleted) == 2:
            raise StoreError(5, "the store is gone")
        deleted.append(key)
        delete(store, key)

    def killed_after_the_rename(path: Path) -> None:
        if path.name.endswith(".removed"):
            raise SystemExit("-9")
        rmtree(path)

    rmtree = shutil.rmtree
    monkeypatch.setattr(FileBlobStore, "delete", die_at_the_third)
    code, _, err = rm("trial", "--yes")
    assert (code, err) == (1, "headrace: the store is gone\n")
    assert folder.read_status()["state"] == "removing"

    monkeypatch.setattr(sys, "argv", ["headrace", "resume", "trial"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2

    monkeypatch.setattr(FileBlobStore, "delete", delete)
    monkeypatch.setattr(removal.shutil, "rmtree", killed_after_the_rename)
    with pytest.raises(SystemExit, match="-9"):
        removal.remove(folder.path)
    assert os.listdir(here / "runs") == [".trial.removed"]
    monkeypatch.undo()
    monkeypatch.chdir(here)
    removal.remove(removal.find_removable(Path("trial")))
    assert os.listdir(here / "runs") == []
    assert os.listdir(here / "store") == []


def test_a_server_that_outlived_its_driver_is_ended_first(here, rm):
    folder = filled(here, "trial", state="running")
    server = EmbeddedServer(folder.redis)
    server.start()
    try:
        assert rm("trial", "--yes")[0] == 0
        assert server.pid is None
        assert os.listdir(here / "runs") == []
    finally:
        server.stop()
