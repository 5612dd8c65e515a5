"""The timeline: whole lines, at its pace, and no end of a run. A second beside the imports."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from orchestrator_recipes import a_recipe
from prometheus_client import REGISTRY

from experience.buffer import BufferLost
from experience.memory import MemoryBuffer, MemoryServer
from orchestrator import timeline
from orchestrator.folder import RunFolder
from orchestrator.run_report.reading import read_lines
from orchestrator.timeline import MOST_OF_A_ROLE, Timeline, Workers
from orchestrator.vitals import Vitals, new_clocks
from weightstore.blobs import StoreError

GEN = {
    "state": "running",
    "served": "0/1/3",
    "wall": {"generate": 1.5, "other": 0.5},
    "tokens_done": 90,
    "groups_done": 3,
}
SCORE = {"state": "running", "wall": {"rewards": 0.25}, "groups": 2, "failures": 0}
RANK = {"state": "running", "doing": "idle", "step": 3, "wall": {"train": 2.0}}
FIELDS = [
    "time",
    "elapsed_s",
    "epoch",
    "state",
    "step",
    "committed",
    "published",
    "saved",
    "issued",
    "live",
    "capacity",
    "streams",
    "oldest_s",
    "waited_for",
    "restarts",
    "redis",
    "workers",
]


def read(path: Path) -> list[Mapping[str, Any]]:
    found = read_lines(path, budget_bytes=2**30)
    assert found.damaged == 0
    return list(found.rows)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "r")
    folder.create()
    return folder


def test_lines_come_often_while_a_life_is_young(folder: RunFolder) -> None:
    line = Timeline(folder)
    assert line.due(0.0)
    times, now = [], 0.0
    while now < 700.0:
        if line.due(now):
            times.append(now)
            line.add({"elapsed_s": now, "state": "running"})
        now += 0.5
    gaps = {later - earlier for earlier, later in itertools.pairwise(times)}
    assert gaps == {2.0, 10.0}
    assert [later - 10.0 for later in times if later > 602.0] == [time for time in times if 600.0 <= time < 690.0]
    assert [one["elapsed_s"] for one in read(folder.timeline)] == times


def test_a_full_disk_is_logged_and_the_next_line_is_whole(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = Timeline(folder)
    line.add({"elapsed_s": 0.0, "state": "starting"})
    with monkeypatch.context() as full:
        full.setattr(timeline.RunFolder, "append", _full)
        line.add({"elapsed_s": 2.0, "state": "running"})
    assert "timeline not written" in caplog.text
    assert not line.due(3.9)
    line.add({"elapsed_s": 4.0, "state": "running"})
    assert [one["elapsed_s"] for one in read(folder.timeline)] == [0.0, 4.0]


def _full(*_: object) -> None:
    raise StoreError(28, "cannot write timeline.jsonl: No space left on device")


def test_workers_have_an_entry_each_or_one_for_a_large_role() -> None:
    assert Workers().of({"rank-0": RANK, "gen-0": GEN, "score-0": SCORE, "gen-1": {"state": "starting"}}) == {
        "rank-0": {"state": "running", "wall": {"train": 2.0}},
        "gen-0": {"state": "running", "served": "0/1/3", "wall": GEN["wall"], "tokens": 90, "groups": 3},
        "score-0": {"state": "running", "wall": {"rewards": 0.25}, "groups": 2},
        "gen-1": {"state": "starting"},
    }
    many = {f"gen-{index}": GEN for index in range(MOST_OF_A_ROLE)}
    assert Workers().of(many).keys() == many.keys()
    crowd = Workers().of(many | {"gen-16": GEN, "gen-17": {"state": "starting"}, "score-0": SCORE})
    assert crowd == {
        "gen*": {"count": 18, "wall": {"generate": 25.5, "other": 8.5}, "tokens": 1530, "groups": 51},
        "score-0": {"state": "running", "wall": {"rewards": 0.25}, "groups": 2},
    }


def test_the_sum_of_a_large_role_never_falls_when_one_of_it_dies() -> None:
    """Readers take a counter that falls for a new life: they would count all 17 workers' work once more."""
    crowd, many = Workers(), {f"gen-{index}": GEN for index in range(MOST_OF_A_ROLE + 1)}
    young = GEN | {"wall": {"generate": 0.25, "other": 0.0}, "tokens_done": 6, "groups_done": 1}
    lives = [GEN, {"state": "starting"}, young, young | {"tokens_done": 8}]
    seen = [crowd.of(many | {"gen-3": life})["gen*"] for life in lives]
    assert [one["tokens"] for one in seen] == [1530, 1530, 1536, 1538]  # 17 · 90, then 6 and 8 of its new life
    assert [one["groups"] for one in seen] == [51, 51, 52, 52]
    assert [one["wall"]["generate"] for one in seen] == [25.5, 25.5, 25.75, 25.75]


class Turn:
    """A life's vitals, turn by turn, on a buffer in memory."""

    def __init__(self, folder: RunFolder) -> None:
        recipe = a_recipe()
        self.buffer = MemoryBuffer(MemoryServer(), run_epoch=1, trainer_epoch=1)
        self.wall, self.waited = new_clocks(began=timeline_clock())
        disks = {"run": folder.path}
        self.vitals = Vitals(recipe, folder, epoch=4, wall=self.wall, waited=self.waited, disks=disks)
        self.trainer = SimpleNamespace(
            step=1, reached=1, committed=1, published=1, saved=0, restarts=2, final=False, started=True, at_work=True,
            ranks=[SimpleNamespace(name="rank-0", status=RANK)],
        )  # fmt: skip
        members = [SimpleNamespace(name="gen-0", status=GEN), SimpleNamespace(name="score-0", status=SCORE)]
        self.supervisor = SimpleNamespace(members=lambda: members, restarts=1)
        self.now = 0.0

    def tick(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.trainer, name, value)
        self.now += 2.5
        snapshot = self.buffer.snapshot()
        self.vitals.tick(self.now, snapshot, self.trainer, self.supervisor, buffer=self.buffer)  # type: ignore[arg-type]


def timeline_clock() -> float:
    import time

    return time.monotonic() - 5.0


def test_a_life_notes_its_start_its_way_and_its_end(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "INTERVAL_S", -1.0)  # at every turn
    life = Turn(folder)
    life.tick()
    life.tick(at_work=False)
    life.vitals.ended("completed")
    lines = read(folder.timeline)
    assert [line["state"] for line in lines] == ["starting", "running", "running", "completed"]
    assert all(list(line) == FIELDS for line in lines)
    first, second, _, last = lines
    assert {line["epoch"] for line in lines} == {4}
    assert first["elapsed_s"] >= 5.0
    assert (first["step"], first["published"], first["capacity"]) == (-1, -1, second["capacity"])
    assert first["waited_for"]["start"] == pytest.approx(first["elapsed_s"], abs=0.1)
    assert second["restarts"] == {"trainer": 2, "workers": 1}
    assert second["streams"] == {"prompts": 0, "completions": 0, "experience": 0, "quarantine": 0} == second["oldest_s"]
    assert second["redis"] == {"used_bytes": None, "limit_bytes": None, "aof_ok": None}
    assert set(second["workers"]) == {"driver", "rank-0", "gen-0", "score-0"}
    assert second["workers"]["driver"]["wall"]["start"] >= 5.0
    waited = last["waited_for"]
    assert set(waited) == {"start", "generation", "scoring", "publication", "training", "end"}
    assert last["step"] == 1


@pytest.mark.parametrize(("error", "state"), [(KeyboardInterrupt, "stopped"), (BufferLost, "failed")])
def test_a_life_that_ends_before_its_loop_notes_its_end_once(
    folder: RunFolder, error: type[BaseException], state: str
) -> None:
    early, late = Turn(folder).vitals, Turn(folder).vitals
    with pytest.raises(error), early.noted():
        raise error
    late.ended("failed")  # the loop's own word
    with pytest.raises(error), late.noted():
        raise error
    with Turn(folder).vitals.noted():
        pass
    lines = read(folder.timeline)
    assert [line["state"] for line in lines] == ["starting", "starting", state, "failed", "starting"]
    assert all(list(line) == FIELDS for line in lines)


def test_the_driver_exports_what_it_sees(folder: RunFolder) -> None:
    life = Turn(folder)
    life.tick()
    seen = REGISTRY.get_sample_value
    assert seen("headrace_run_disk_free_bytes", {"path": "run"}) > 0  # type: ignore[operator]
    assert seen("headrace_run_disk_bytes", {"path": "run"}) > seen("headrace_run_disk_free_bytes", {"path": "run"})  # type: ignore[operator]
    assert seen("headrace_run_steps_planned") == a_recipe().run.steps
    assert seen("headrace_experience_capacity_groups") == read(folder.timeline)[0]["capacity"]
    progress = seen("headrace_run_last_progress_timestamp_seconds")
    assert progress - seen("headrace_run_start_timestamp_seconds") >= 5.0  # type: ignore[operator]
    life.tick()
    assert seen("headrace_run_last_progress_timestamp_seconds") == progress
    life.tick(reached=2)
    assert seen("headrace_run_last_progress_timestamp_seconds") > progress  # type: ignore[operator]
    for stage in ("training", "start"):
        assert seen("headrace_run_waited_for_seconds_total", {"stage": stage}) > 0  # type: ignore[operator]


def test_a_server_that_lost_its_data_does_not_end_the_look(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Turn(folder)

    def lost() -> None:
        raise BufferLost("run epoch 1, the newest is not set")

    monkeypatch.setattr(life.buffer, "ages", lost)
    life.tick()
    assert life.vitals.status()["oldest_s"] == {}
