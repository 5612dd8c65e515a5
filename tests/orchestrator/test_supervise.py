"""Generation and scoring workers: restarted one by one, with back-off, up to a limit; and the names that keep them apart."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator_ranks import Call, Remote, outcome
from orchestrator_recipes import a_recipe

import orchestrator.supervise
import orchestrator.topology
from experience.buffer import Fenced
from experience.memory import MemoryBuffer, MemoryServer
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.sections import SuperviseConfig
from orchestrator.supervise import BACKOFF_MAX_S, Supervisor, back_off
from orchestrator.topology import Topology
from weightstore.blobs import FileBlobStore
from weightstore.epochs import newest_epoch


@pytest.fixture(autouse=True)
def _transport(monkeypatch):
    monkeypatch.setattr(orchestrator.supervise, "outcome", outcome)


class Worker:
    """A member whose start, loop and death the test decides."""

    def __init__(self, kind: str, index: int, life: int) -> None:
        self.name, self.life = f"{kind}-{index}", life
        self.ready, self.killed, self.stopped = True, False, False
        self.death: str | None = None
        self.loop: Call | None = None
        self.actor = SimpleNamespace(run=Remote(self._run), stop=Remote(self._stop))

    def pulse(self, now: float) -> str | None:
        return self.death

    def kill(self) -> None:
        self.killed = True

    def _run(self) -> Call:
        assert self.loop is None, "a loop is started once"
        self.loop = Call(("run",), self.life, lambda: None)
        return self.loop

    def _stop(self) -> None:
        self.stopped = True


class Crew:
    """A supervisor of two generation workers and a scorer, on a clock of its own."""

    def __init__(self, **settings: Any) -> None:
        self.now = 0.0
        self.spawned: list[Worker] = []
        config = SuperviseConfig(**{"restart_limit": 2, "restart_backoff_s": 1.0} | settings)
        self.supervisor = Supervisor(config, counts={"gen": 2, "score": 1}, spawn=self._spawn)  # type: ignore[arg-type]
        self.tick()

    def _spawn(self, kind: str, index: int, life: int, now: float) -> Worker:
        self.spawned.append(Worker(kind, index, life))
        return self.spawned[-1]

    def tick(self, seconds: float = 0.5) -> None:
        self.now += seconds
        self.supervisor.tick(self.now)

    def lives(self) -> list[tuple[str, int]]:
        return [(worker.name, worker.life) for worker in self.spawned]


def test_every_slot_is_filled_and_its_loop_started_once_it_is_ready():
    crew = Crew()
    assert crew.lives() == [("gen-0", 0), ("gen-1", 0), ("score-0", 0)]
    crew.spawned[1].ready = False
    for _ in range(3):
        crew.tick()
    assert [worker.loop is not None for worker in crew.spawned] == [True, False, True]
    crew.spawned[1].ready = True
    crew.tick()
    assert crew.spawned[1].loop is not None


def test_the_one_that_died_is_replaced_after_its_wait_and_the_others_stay(caplog):
    crew = Crew()
    crew.tick()
    crew.spawned[0].death = "no heartbeat for 11 s"
    with caplog.at_level("WARNING"):
        crew.tick()
    assert crew.spawned[0].killed
    assert [(record.member, record.cause, record.wait_s) for record in caplog.records] == [
        ("gen-0", "no heartbeat for 11 s", 1.0)
    ]
    assert [member.name for member in crew.supervisor.members()] == ["gen-1", "score-0"]
    crew.tick()
    assert len(crew.spawned) == 3
    crew.tick()
    assert crew.lives()[3:] == [("gen-0", 1)]
    crew.tick()
    assert crew.spawned[3].loop is not None
    assert not any(worker.killed for worker in crew.spawned[1:])
    assert crew.supervisor.restarts == 1


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (lambda loop: loop.finish(), "its loop ended"),
        (lambda loop: loop.fail("OSError: disk full"), "OSError: disk full"),
    ],
)
def test_a_loop_that_ends_is_a_death(end, cause, caplog):
    crew = Crew()
    crew.tick()
    end(crew.spawned[2].loop)
    with caplog.at_level("WARNING"):
        crew.tick()
    assert crew.spawned[2].killed
    assert [(record.member, record.cause) for record in caplog.records] == [("score-0", cause)]


def test_the_wait_doubles_and_the_limit_ends_the_run_with_the_cause():
    crew = Crew(restart_limit=3)
    waits = []
    for _ in range(3):
        crew.spawned[-1].death = "its process died"
        crew.tick()
        died, before = crew.now, len(crew.spawned)
        while len(crew.spawned) == before:
            crew.tick()
        waits.append(crew.now - died)
    assert waits == [1, 2, 4]
    crew.spawned[-1].death = "its process died"
    with pytest.raises(RunFailed, match="score-0 died 4 times without a step trained in between: its process died"):
        crew.tick()
    assert crew.spawned[-1].killed


def test_each_worker_has_a_limit_of_its_own():
    crew = Crew(restart_limit=1)
    for worker in crew.spawned[:3]:
        worker.death = "its process died"
    crew.tick()
    crew.tick(5)
    assert [life for _, life in crew.lives()] == [0, 0, 0, 1, 1, 1]


def test_progress_forgives_what_died_before_it():
    crew = Crew(restart_limit=1)
    for _ in range(5):
        crew.spawned[-1].death = "its process died"
        crew.tick()
        crew.tick(1)
        crew.supervisor.progressed()
    assert crew.supervisor.restarts == 5
    assert crew.lives()[-1] == ("score-0", 5)


def test_no_restart_at_all_when_the_limit_is_0():
    crew = Crew(restart_limit=0)
    crew.spawned[0].death = "its process died"
    with pytest.raises(RunFailed, match="gen-0 died 1 times"):
        crew.tick()


@given(failures=st.integers(1, 5000), backoff=st.floats(1e-3, 1e3))
def test_a_wait_is_never_longer_than_the_longest(failures, backoff):
    config = SuperviseConfig(restart_limit=5000, restart_backoff_s=backoff)
    wait = back_off(config, failures=failures, who="gen-0", cause="")
    assert min(backoff, BACKOFF_MAX_S) <= wait <= BACKOFF_MAX_S
    assert back_off(config, failures=5000, who="gen-0", cause="") == BACKOFF_MAX_S


# -- what each life is told ----------------------------------------------------------------------------------------------
class Anywhere:
    """A cluster that notes which place each actor was given."""

    node = host = worker_host = "here"

    def options(self, kind, index, life):
        return {"place": (kind, index, life)}

    def environment(self):
        return {"VARIABLE": "value"}


@pytest.fixture
def life(tmp_path, monkeypatch):
    """(topology, buffer, specs of the members made, store) of a run's life with epoch 3."""
    specs: list[dict[str, Any]] = []

    def member(spec, *, options, environment, config, now, meeting=None, host=None):
        specs.append({**spec, **options, **environment, "meeting": meeting, "process": host})
        return SimpleNamespace(name=spec["name"], meeting=meeting or object())

    monkeypatch.setattr(orchestrator.topology, "Member", member)
    store = FileBlobStore(tmp_path / "store")
    for _ in range(3):
        orchestrator.topology.claim_epoch(store, kind="orchestrator", life={})
    buffer = MemoryBuffer(MemoryServer(), run_epoch=3, trainer_epoch=3)
    for role in ("run", "trainer"):
        buffer.raise_epoch(role=role, epoch=3)  # type: ignore[arg-type]
    recipe = a_recipe(training__ranks=2)
    topology = Topology(
        recipe,
        RunFolder(tmp_path / "trial"),
        store=store,
        epoch=3,
        buffer=buffer,
        cluster=Anywhere(),
        hosts={"rank-0": "one", "rank-1": "another", "gen-1": "a third"},
    )
    return topology, buffer, specs, store


def test_no_two_lives_of_a_worker_share_the_name_that_holds_leases(life):
    topology, _, specs, _ = life
    for kind, index, number in [("gen", 0, 0), ("gen", 0, 1), ("gen", 1, 0), ("score", 0, 0)]:
        topology.worker(kind, index, number, 0.0)
    assert [spec["consumer"] for spec in specs] == ["gen-0.e3.0", "gen-0.e3.1", "gen-1.e3.0", "score-0.e3.0"]
    assert [spec["name"] for spec in specs] == ["gen-0", "gen-0", "gen-1", "score-0"]
    assert {spec["run_epoch"] for spec in specs} == {3}
    assert [spec["place"] for spec in specs] == [("gen", 0, 0), ("gen", 0, 1), ("gen", 1, 0), ("score", 0, 0)]
    assert {spec["VARIABLE"] for spec in specs} == {"value"}


def test_the_ranks_of_one_life_meet_and_only_the_first_has_the_buffer(life):
    topology, _, specs, store = life
    topology.ranks(0, 0.0)
    assert [(spec["rank"], spec["world_size"], spec["with_buffer"]) for spec in specs] == [(0, 2, True), (1, 2, False)]
    assert specs[0]["meeting"] is None, "the first rank says where"
    assert specs[1]["meeting"] is not None
    assert {spec["trainer_epoch"] for spec in specs} == {3}
    assert newest_epoch(store) == 3


def test_ranks_that_start_anew_fence_those_before_them(life):
    topology, buffer, specs, store = life
    topology.ranks(0, 0.0)
    topology.ranks(1, 0.0)
    assert [spec["trainer_epoch"] for spec in specs] == [3, 3, 4, 4]
    assert {spec["run_epoch"] for spec in specs} == {3}
    assert json.loads(store.get("epochs/000004.json"))["body"]["kind"] == "ranks"
    with pytest.raises(Fenced):
        buffer.settle([], outcome="lost", reason="by the driver, with the ranks' old epoch")


def test_only_the_first_life_takes_over_the_processes_of_an_earlier_stage(life):
    topology, _, specs, _ = life
    topology.ranks(0, 0.0)
    topology.ranks(1, 0.0)
    for index, number in [(0, 0), (1, 0), (1, 1)]:
        topology.worker("gen", index, number, 0.0)
    assert [spec["process"] for spec in specs] == ["one", "another", None, None, None, "a third", None]
