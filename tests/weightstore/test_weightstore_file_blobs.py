"""What holds for files only: processes that die half-way, leftovers, errors of the filesystem."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from weightstore import blobs, scratch
from weightstore.blobs import FileBlobStore, StoreError

PUT = """
import os, signal, sys
from pathlib import Path
from weightstore import blobs

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before the fsync":
    blobs.os.fsync = die
if sys.argv[2] == "before the link":
    blobs.os.link = die
if sys.argv[2] == "before the clean-up":
    Path.unlink = die
store = blobs.FileBlobStore(Path(sys.argv[1]))
store.scratch()
print("ready", flush=True)
sys.stdin.readline()
print(store.put_if_absent("weights/blob", sys.argv[2].encode() * 100_000))
"""


def start(root, argument):
    command = [sys.executable, "-c", PUT, str(root), argument]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("point", ["before the fsync", "before the link", "before the clean-up"])
def test_a_kill_leaves_the_blob_whole_or_invisible(tmp_path, point):
    process = start(tmp_path, point)
    process.communicate("go\n", timeout=30)
    assert process.returncode == -signal.SIGKILL
    store = FileBlobStore(tmp_path)
    assert store.list("") == (["weights/blob"] if point == "before the clean-up" else [])
    assert [path.name[:5] for path in tmp_path.glob(".scratch/*/*")] == [".tmp-"]

    store.put_if_absent("weights/blob", b"second life")
    whole = point.encode() * 100_000 if point == "before the clean-up" else b"second life"
    assert store.get("weights/blob") == whole
    store.put_if_absent("weights/next", b"")  # the first write of a life cleans up
    assert list(tmp_path.glob(".scratch/*/*")) == []


def test_of_racing_processes_exactly_one_wins(tmp_path):
    processes = [start(tmp_path, f"process {index}") for index in range(8)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=30)[0].strip() for process in processes]
    assert sorted(answers) == ["False"] * 7 + ["True"]
    assert FileBlobStore(tmp_path).get("weights/blob") == f"process {answers.index('True')}".encode() * 100_000


def test_temporaries_of_the_living_are_left_alone(tmp_path):
    living, other = FileBlobStore(tmp_path), FileBlobStore(tmp_path)
    path = living.scratch()
    path.write_bytes(b"being written")
    other.put_if_absent("a", b"")
    assert scratch.remove_abandoned(tmp_path / ".scratch") == 0
    assert living.put_file_if_absent("b", path)
    del living, other
    assert scratch.remove_abandoned(tmp_path / ".scratch") == 2


def test_without_locks_nothing_is_taken_for_a_leftover(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(scratch.fcntl, "flock", unsupported)
    path = FileBlobStore(tmp_path).scratch()
    path.write_bytes(b"")
    assert FileBlobStore(tmp_path).put_if_absent("a", b"")
    assert path.exists()


def test_reading_creates_nothing(tmp_path):
    store = FileBlobStore(tmp_path / "missing")
    assert store.list("") == []
    assert not store.exists("a")
    assert list(tmp_path.iterdir()) == []


def test_our_own_link_counts_even_if_its_reply_was_lost(tmp_path, monkeypatch):
    link = os.link

    def link_and_report_the_retry(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(blobs.os, "link", link_and_report_the_retry)
    assert FileBlobStore(tmp_path).put_if_absent("a", b"mine")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "free space"), (errno.EACCES, "owner and mode"), (errno.EIO, "check the filesystem")],
)
def test_an_error_of_the_filesystem_is_one_line_with_path_and_remedy(tmp_path, monkeypatch, code, remedy):
    store = FileBlobStore(tmp_path)

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(blobs.os, "link", fail)
    with pytest.raises(StoreError) as caught:
        store.put_if_absent("ledger/1", b"x")
    assert caught.value.errno == code
    message = str(caught.value)
    assert str(tmp_path / "ledger/1") in message
    assert remedy in message
    assert "\n" not in message
    assert list(tmp_path.glob(".scratch/*/*")) == []
