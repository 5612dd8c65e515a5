"""The run's folder: one driver at a time, however it ends, and small files that are never seen half-written."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from orchestrator.folder import RunAlive, RunFolder

HOLDER = """
import subprocess, sys
from pathlib import Path
from orchestrator.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    print(child.pid, flush=True)
    sys.stdin.read()
"""
"""A driver in a process of its own, with a child that outlives it as the embedded server does."""


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "trial")


@pytest.fixture
def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_second_driver_is_refused_with_one_line_that_names_the_first(folder, holder):
    with pytest.raises(RunAlive) as caught, folder.locked():
        pass
    message = str(caught.value)
    assert "\n" not in message
    assert f"run {folder.path} is still alive (driver process {holder.pid})" in message
    assert f"`kill {holder.pid}`" in message  # no run yet, or a stage's folder: `headrace stop` would not find it
    folder.recipe.touch()
    with pytest.raises(RunAlive, match=f"`headrace stop {folder.path}`"), folder.locked():
        pass
    assert folder.driver_pid() == holder.pid  # the refused one has not written its own


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_kernel_frees_the_run_when_its_driver_dies(folder, holder, how):
    holder.send_signal(how)
    holder.wait()
    assert folder.driver_pid() is None
    with folder.locked():
        assert folder.driver_pid() == os.getpid()
    assert folder.driver_pid() is None


def test_in_one_process_too_a_run_has_one_driver(folder):
    with folder.locked(), pytest.raises(RunAlive), folder.locked():
        pass
    with folder.locked():
        pass


def test_a_folder_that_no_driver_ever_held_has_none(folder):
    assert folder.driver_pid() is None
    assert not folder.path.exists()


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"run folder .*/file/trial: cannot be written \(Not a directory\); .*run\.root"), RunFolder(tmp_path / "file" / "trial").locked():  # fmt: skip
        pass


def test_a_look_at_the_driver_never_refuses_a_driver(folder):
    """`status` in a loop beside `resume`: looking takes the lock for a moment."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            folder.driver_pid()

    threads = [threading.Thread(target=look) for _ in range(2)]
    with folder.locked():
        pass
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            with folder.locked():
                assert folder.driver_pid() == os.getpid()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_names_are_those_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(RunFolder(tmp_path / "runs" / ".." / "runs" / "trial").path)
    assert folder.run_id == "trial"
    assert folder.path == tmp_path / "runs" / "trial"
    folder.create()
    folder.create()
    assert folder.logs.is_dir()


@pytest.mark.parametrize("content", [b"", b'{"state": "runn', b"[]", b"null", b"\xff"])
def test_a_status_that_is_damaged_names_its_file(folder, content):
    folder.create()
    folder.status.write_bytes(content)
    with pytest.raises(ValueError, match=r"status\.json: is no JSON.*; remedy: delete it"):
        folder.read_status()


def test_status_is_whole_at_every_moment(folder):
    folder.create()
    assert folder.read_status() == {}
    stop = threading.Event()
    torn: list[Exception] = []

    def read() -> None:
        while not stop.is_set():
            try:
                content = folder.read_status()
                assert content == {} or len(content["padding"]) == 20_000
            except (ValueError, AssertionError) as error:
                torn.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(200):
        folder.write_json(folder.status, {"step": step, "padding": "x" * 20_000})
    stop.set()
    reader.join()
    assert torn == []
    assert json.loads(folder.status.read_text())["step"] == 199
    assert [path.name for path in folder.path.iterdir() if path.name.startswith(".")] == []
