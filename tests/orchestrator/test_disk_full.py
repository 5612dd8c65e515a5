"""What a full disk does: nothing torn, nothing silent but logs, and the end of the run at the first such error.

Where a write is cut short, the kernel does it: RLIMIT_FSIZE lets a file grow to so many bytes and no further, as a disk
that fills does. (Its error is EFBIG in place of ENOSPC.)
"""

import errno
import json
import logging
import os
import resource
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from orchestrator_recipes import a_recipe, an_issuer
from ray.exceptions import RayTaskError

from experience.memory import MemoryBuffer, MemoryServer
from orchestrator import disk, folder, logs
from orchestrator.admission import Admission
from orchestrator.console import Console
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.member import outcome
from orchestrator.report import Reporter
from orchestrator.run import Run
from orchestrator.targets import Targets
from orchestrator.vitals import Vitals, new_clocks
from weightstore import blobs
from weightstore.blobs import FileBlobStore, StoreError
from weightstore.shards import write_safetensors

Usage = namedtuple("Usage", "total used free")


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """No file of this process may grow beyond `count` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "runs" / "trial")
    run.create()
    return run


# -- adapters: whole or nothing, and one line with path and remedy


def test_a_line_is_added_whole_or_not_at_all(run):
    run.append(run.metrics, '{"step": 1}')
    with files_of_at_most(100):
        with pytest.raises(StoreError, match=f"cannot write {run.metrics}: File too large"):
            run.append(run.metrics, "x" * 200)
        assert run.metrics.read_text() == '{"step": 1}\n'
        run.append(run.metrics, '{"step": 2}')
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2]


def test_a_small_file_keeps_its_old_content(run):
    run.write_json(run.status, {"state": "running"})
    before = sorted(os.listdir(run.path))
    with files_of_at_most(100), pytest.raises(StoreError, match=f"cannot write {run.status}: "):
        run.write_json(run.status, {"state": "x" * 200})
    assert run.read_status() == {"state": "running"}
    assert sorted(os.listdir(run.path)) == before


def test_log_lines_that_do_not_fit_are_left_out_whole(tmp_path, capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        path = logs.configure(tmp_path, run="r", worker="w")
        log = logging.getLogger("a.test")
        log.info("before")
        with files_of_at_most(path.stat().st_size + 250):
            log.info("long", extra={"text": "x" * 500})
            log.info("short")
        log.info("after")
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = True
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["before", "short", "after"]
    assert capsys.readouterr().err == ""


WRITES = {
    "put": lambda store: store.put_if_absent("ledger/0/1.batch", b"x" * 5000),
    "replace": lambda store: store.replace("weights/0/newest/e1.json", b"x" * 5000),
    "file": lambda store: _put_tensors(store),
}


def _put_tensors(store: FileBlobStore) -> bool:
    path = store.scratch()
    try:
        write_safetensors(path, blob="b", tensors={"w": torch.zeros(2000)})
        return store.put_file_if_absent("checkpoints/0/1/rank-0.safetensors", path)
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_blob_cut_short_is_invisible_and_can_be_written_later(tmp_path, write):
    store = FileBlobStore(tmp_path)
    with files_of_at_most(3000), pytest.raises(StoreError, match=rf"cannot write {tmp_path}/\S+: File too large; "):
        write(store)
    assert store.list("") == []
    assert list(tmp_path.glob(".scratch/*/*")) == []
    write(store)
    assert len(store.list("")) == 1


@pytest.mark.parametrize("code", sorted(disk.FULL), ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("call", ["fsync", "link", "mkdir"])
@pytest.mark.parametrize("write", [WRITES["put"], WRITES["file"]], ids=["put", "file"])
def test_whichever_call_finds_the_disk_full_the_blob_is_invisible(tmp_path, monkeypatch, write, call, code):
    store = FileBlobStore(tmp_path)
    store.scratch()

    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(*((Path, "mkdir", full) if call == "mkdir" else (blobs.os, call, full)))
        with pytest.raises(StoreError) as caught:
            write(store)
    assert disk.is_full(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "; free space there" in str(caught.value) or "; raise the quota" in str(caught.value)
    assert store.list("") == []
    assert list(tmp_path.glob(".scratch/*/*")) == []
    write(store)
    assert len(store.list("")) == 1


# -- the driver


def test_the_last_word_finds_the_room_that_was_set_aside(run, monkeypatch):
    """A disk that takes nothing more until a file of the run goes."""
    run.write_json(run.status, {"state": "running"})
    reserve = run.path / "reserve"
    assert reserve.stat().st_blocks * 512 >= folder._RESERVE_BYTES
    write_text = Path.write_text

    def full_while_it_is_there(path: Path, text: str, **how: Any) -> int:
        if reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_text(path, text, **how)

    monkeypatch.setattr(Path, "write_text", full_while_it_is_there)
    with pytest.raises(StoreError, match="No space left"):
        run.write_json(run.status, {"state": "running", "step": 1})
    assert reserve.exists()  # only the last word may take it
    run.write_last({"state": "failed", "cause": "cannot write …"})
    assert run.read_status() == {"state": "failed", "cause": "cannot write …"}
    monkeypatch.undo()
    run.create()
    assert reserve.exists()


class _Trainer:
    """As the reporter sees it."""

    reached = committed = published = saved = 3
    written_bytes = restarts = 0
    ranks = ()

    def doing(self) -> str:
        return "idle"


def test_reports_that_cannot_be_written_end_nothing(run):
    run.write_json(run.status, {"state": "starting"})
    reporter = Reporter(
        run, a_recipe(), epoch=1, console=Console(quiet=True), targets=Targets(run, driver="127.0.0.1:1")
    )
    targets = Targets(run, driver="127.0.0.1:1")
    with files_of_at_most(10):
        targets.show({"gen-0": "127.0.0.1:2"})
        reporter.stepped({"step": 1.0})
        reporter.ended("failed", _Trainer(), cause="the disk is full")
    assert run.read_status() == {"state": "starting"}
    assert len(json.loads(run.targets.read_text())) == 1
    targets.show({"gen-0": "127.0.0.1:2"})  # unchanged, and not yet in the file
    assert len(json.loads(run.targets.read_text())) == 2
    reporter.stepped({"step": 2.0})
    reporter.ended("failed", _Trainer(), cause="the disk is full")
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [2.0]
    assert run.read_status()["cause"] == "the disk is full"


def test_a_run_that_completed_does_not_hide_that_it_could_not_say_so(run):
    run.write_json(run.status, {"state": "running"})
    reporter = Reporter(
        run, a_recipe(), epoch=1, console=Console(quiet=True), targets=Targets(run, driver="127.0.0.1:1")
    )
    with files_of_at_most(10), pytest.raises(StoreError, match=f"cannot write {run.status}"):
        reporter.ended("completed", _Trainer())


@pytest.mark.parametrize("code", sorted(disk.FULL), ids=lambda code: errno.errorcode[code])
def test_a_call_that_met_a_full_disk_ends_the_run_and_restarts_nobody(monkeypatch, code):
    line = "cannot write /a: No space left on device; free space there"

    def fails(error: OSError) -> None:
        monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs, []))
        monkeypatch.setattr(ray, "get", lambda ref: (_ for _ in ()).throw(RayTaskError("published", "", error)))

    fails(StoreError(code, line))
    with pytest.raises(RunFailed) as caught:
        outcome(object())
    assert str(caught.value) == line
    fails(StoreError(errno.EIO, "cannot write /a: Input/output error; check the filesystem"))
    assert outcome(object())[2] == "StoreError: cannot write /a: Input/output error; check the filesystem"


def test_low_water_names_the_folder_and_looks_now_and_then(tmp_path, monkeypatch):
    free = {tmp_path / "a": disk.LOW_BYTES, tmp_path / "b": disk.LOW_BYTES}
    for path in free:
        path.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free[path]))
    water = disk.LowWater([tmp_path / "a" / "not yet there", tmp_path / "b"])
    assert water.low(0.0) is None
    free[tmp_path / "b"] -= 1
    assert water.low(disk.LOOK_S - 0.1) is None
    cause = water.low(disk.LOOK_S)
    assert cause is not None
    assert cause.startswith(f"{tmp_path / 'b'}: the disk is nearly full, 67 MB are free")
    assert "headrace runs ls" in cause


class _NoRanks:
    """A topology whose processes never come up: what ends such a run did not come from them."""

    def worker(self, kind: str, index: int, life: int, now: float) -> SimpleNamespace:
        pulse, kill = (lambda now: None), (lambda: None)
        return SimpleNamespace(name=f"{kind}-{index}", status={}, ready=False, pulse=pulse, kill=kill)

    def ranks(self, life: int, now: float) -> list[SimpleNamespace]:
        return []


def test_a_run_stops_before_the_disk_is_full_and_fails_with_the_cause(run, monkeypatch, capsys):
    recipe, buffer = a_recipe(), MemoryBuffer(MemoryServer(), run_epoch=1, trainer_epoch=1)
    buffer.open(fingerprint="f")
    for role in ("run", "trainer"):
        buffer.raise_epoch(role=role, epoch=1)
    run.write_json(run.status, {"state": "starting"})
    wall, waited = new_clocks(began=time.monotonic())
    life = Run(
        recipe,
        run,
        store=FileBlobStore(run.path),
        buffer=buffer,
        topology=_NoRanks(),
        admission=Admission(recipe, buffer=buffer, issuer=an_issuer(recipe)),
        mend=lambda: None,
        lineage=0,
        epoch=1,
        committed=0,
        published=-1,
        targets=Targets(run, driver="127.0.0.1:1"),
        console=Console(),
        vitals=Vitals(recipe, run, epoch=1, wall=wall, waited=waited, disks={"run": run.path}),
        wall=wall,
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, disk.LOW_BYTES - 1))
    with pytest.raises(RunFailed, match=f"{run.path}: the disk is nearly full"):
        life.drive()
    assert buffer.snapshot().next_sequence == 0  # nothing was issued any more
    assert f"stopping: {run.path}: the disk is nearly full" in capsys.readouterr().err.replace("\n", "")


def test_what_a_folder_holds_is_counted_by_blocks_and_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    one = disk.bytes_below(tmp_path)
    assert 1_000_000 <= one < 1_100_000
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("/usr")
    assert one <= disk.bytes_below(tmp_path) < one + 10_000
    assert disk.bytes_below(tmp_path / "missing") == 0


# -- a driver on another host


def another_host_was_here(run: RunFolder, *, state: str) -> None:
    with run.locked():
        run.write_json(run.status, {"state": state, "tick": 0})
    (run.path / "driver.lock").write_text("7 elsewhere")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(folder, "_LAST_SIGN_S", 0.6)
    monkeypatch.setattr(folder, "_LOOK_S", 0.01)


def test_a_driver_on_another_host_whose_status_moves_refuses_this_one(run, quick):
    another_host_was_here(run, state="running")
    stop = threading.Event()

    def tick() -> None:
        count = 0
        while not stop.wait(0.05):
            count += 1
            run.write_json(run.status, {"state": "running", "tick": count})

    other = threading.Thread(target=tick)
    other.start()
    try:
        with pytest.raises(folder.RunAlive, match=f"{run.path} is still alive on host elsewhere"), run.locked():
            pass
    finally:
        stop.set()
        other.join()
    assert run.other_host() == "elsewhere"


def test_one_that_fell_silent_or_ended_is_taken_over(run, quick):
    for state in ("running", "stopped"):
        another_host_was_here(run, state=state)
        with run.locked():
            assert run.driver_pid() == os.getpid()
            assert run.other_host() == ""


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (999_400, "999 kB"), (999_600, "1 MB"), (5e12, "5 TB"), (7e15, "7000 TB")],
)
def test_a_size_has_three_digits_and_a_unit(count, shown):
    assert disk.size(count) == shown
