"""`headrace runs ls`: what is a run, what is not, and what each row says."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from orchestrator_folders import a_run

from orchestrator import cli, runs
from orchestrator.runs import is_run, list_runs


def headrace(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["headrace", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    return int(end.value.code or 0), shown.out, shown.err


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_are_listed_with_the_latest_active_first(here, monkeypatch, capsys):
    old = a_run(here, "old", state="completed", step=4, steps=4)
    new = a_run(here, "new", state="failed", step=2, steps=4, store=here / "store")
    (old.path / "weights").mkdir()
    (old.path / "weights/shard").write_bytes(b"x" * 1_000_000)
    (here / "store/new/ledger").mkdir(parents=True)
    (here / "store/new/ledger/1.batch").write_bytes(b"x" * 500_000)
    os.utime(old.status, (1e9, 1e9))
    code, out, _ = headrace(monkeypatch, capsys, "runs", "ls")
    header, first, second = out.splitlines()
    assert code == 0
    assert header.split() == ["RUN", "STATE", "STEP", "LAST", "ACTIVE", "DISK", "STORE", "WHERE"]
    assert first.split()[:3] == ["new", "failed", "2/4"]
    assert f" kB in {here}/store/new  {new.path}" in first
    assert second.split()[:4] == ["old", "completed", "4/4", "2001-09-09"]
    assert second.endswith(f"MB  -      {old.path}") or "MB  -" in second

    code, out, _ = headrace(monkeypatch, capsys, "runs", "ls", "--json", str(old.path))
    (run,) = json.loads(out)
    assert (run["name"], run["state"], run["active"]) == ("old", "completed", "2001-09-09T01:46:40+00:00")
    assert 1_000_000 < run["disk_bytes"] < 1_500_000
    assert (run["store"], run["store_bytes"]) == ("", 0)


def test_a_run_is_what_a_driver_has_held(here):
    run = a_run(here, "trial")
    (here / "runs/notes").mkdir()
    (here / "runs/notes/recipe.yaml").write_text("of my own\n")  # no driver was ever here
    (here / "runs/link").symlink_to(run.path)
    (here / "runs/file").touch()
    assert [entry.name for entry in list_runs([here / "runs"])] == ["trial"]
    assert not is_run(here / "runs/link")
    assert list_runs([here / "runs/notes"]) == []
    assert [entry.name for entry in list_runs([here / "runs", run.path])] == ["trial"]


def test_states_are_those_of_status(here):
    a_run(here, "killed", state="running", step=3, steps=9)
    a_run(here, "fresh", state="")
    (a_run(here, "torn").status).write_text("{")
    (a_run(here, "odd").status).write_text('{"run": "odd", "state": "failed", "step": "x", "steps": null}')
    (a_run(here, "unread", state="stopped").recipe).write_text("run: {}\n")
    with a_run(here, "alive", state="starting").locked():
        states = {entry.name: entry.state for entry in list_runs([here / "runs"])}
    assert states == {
        "killed": "dead",
        "fresh": "new",
        "torn": "unreadable",
        "odd": "unreadable",
        "unread": "stopped",
        "alive": "starting",
    }


def test_no_folder_of_runs_is_one_line(here, monkeypatch, capsys):
    code, out, err = headrace(monkeypatch, capsys, "runs", "ls")
    assert (code, out) == (2, "")
    assert err == "headrace: ROOT = runs: there is no such folder; name one that holds runs (run.root)\n"
    (here / "runs").mkdir()
    code, out, _ = headrace(monkeypatch, capsys, "runs", "ls")
    assert (code, len(out.splitlines())) == (0, 1)


def test_a_terminal_gets_every_cell_too(here, monkeypatch, capsys):
    a_run(here, "trial", state="completed")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    _, out, _ = headrace(monkeypatch, capsys, "runs", "ls")
    assert "completed" in out
    assert str(here / "runs/trial") in out


def test_a_run_that_is_removed_meanwhile_is_not_listed(here, monkeypatch):
    for name in ("gone", "kept"):
        a_run(here, name, state="completed")
    state_of = runs.state_of

    def removed_meanwhile(content, *, alive):
        shutil.rmtree(here / "runs/gone", ignore_errors=True)
        return state_of(content, alive=alive)

    monkeypatch.setattr(runs, "state_of", removed_meanwhile)
    assert [run.name for run in runs.list_runs([here / "runs"])] == ["kept"]
