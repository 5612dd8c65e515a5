"""A run's processes on a real Ray of two nodes with four pretended GPUs each: placed, handed their GPUs, ended by name.

30 s idle: one cluster, and a process of ours for each place; none loads a model.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import ray
from cluster_probes import CANARY
from orchestrator_recipes import a_recipe
from ray.util.placement_group import placement_group, remove_placement_group

from orchestrator import nodes, removal
from orchestrator import recipe as recipes
from orchestrator.cluster import open_cluster
from orchestrator.config import Recipe
from orchestrator.doctor.nodes import check_cluster
from orchestrator.errors import RunFailed
from orchestrator.existing_ray import ExistingRay, connect, end_actors, end_leftovers
from orchestrator.folder import RunFolder
from orchestrator.member import Member
from orchestrator.recipe import RecipeError
from orchestrator.stores import open_store
from orchestrator.topology import Topology
from weightstore.epochs import claim_epoch

pytestmark = [pytest.mark.timeout(600), pytest.mark.alone, pytest.mark.xdist_group("ray")]

NODES = Path(__file__).parents[1] / "ray_nodes.py"
PATIENCE_S = 120.0
"""For processes to start on a busy machine."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, Path]]:
    """(address, folder of Ray's own logs) of two nodes of 8 CPUs and 4 GPUs."""
    with tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, str(NODES), folder, "8:4", "8:4"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, **pipes) as process:
            try:
                yield process.stdout.readline().strip(), Path(folder)
            finally:
                process.communicate()


class Life:
    """One life of a run on the cluster, as the driver makes it, with probes in place of workers."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder
        self.store = open_store(recipe, folder)
        self.warnings: list[str] = []

    @contextmanager
    def open(self) -> Iterator[tuple[Topology, Any]]:
        epoch = claim_epoch(self.store, kind="orchestrator", life={})
        with open_cluster(self.recipe, self.folder, epoch=epoch, warn=self.warnings.append) as cluster:
            yield self.topology(epoch, cluster), cluster

    def topology(self, epoch: int, cluster: Any) -> Topology:
        return Topology(
            self.recipe,
            self.folder,
            store=self.store,
            epoch=epoch,
            buffer=None,
            cluster=cluster,
            builder="cluster_probes:build",
        )


@pytest.fixture
def a_life(cluster: tuple[str, Path], tmp_path: Path) -> Callable[..., Life]:
    def make(**changes: Any) -> Life:
        (tmp_path / "model").mkdir(exist_ok=True)
        changes = {
            "model__path": str(tmp_path / "model"),
            "run__root": str(tmp_path),
            "training__ranks": 3,
            "generation__engine": {"tensor_parallel": 4},
            "ray__address": cluster[0],
        } | changes
        folder = RunFolder(tmp_path / "trial")
        folder.create()
        return Life(a_recipe(**changes), folder)

    return make


def answers(*members: Member) -> list[dict[str, Any]]:
    """What each says of its place, once it has started."""
    deadline = time.monotonic() + PATIENCE_S
    while not all(member.ready for member in members):
        causes = [cause for member in members if (cause := member.pulse(time.monotonic()))]
        assert not causes
        assert time.monotonic() < deadline
        ray.wait([member.setup_call for member in members], num_returns=len(members), timeout=0.2)
    return [member.setup_answer or {} for member in members]


def dump_stacks(members: list[Member], folder: RunFolder) -> None:
    """By a signal on the driver's node, by a call on the other."""
    until(
        lambda: (
            not any(member.pulse(time.monotonic()) for member in members) and all("pid" in m.status for m in members)
        )
    )
    assert {member.status["node"] for member in members} == {node["NodeID"] for node in ray.nodes()}
    assert all(member.dump_stacks() for member in members)
    until(lambda: all("File " in (folder.logs / f"{member.name}.stacks").read_text() for member in members))


def test_an_8_gpu_recipe_is_placed_and_each_process_sees_its_own_gpus(a_life, cluster, monkeypatch):
    canary = "canary-5e1f0c7b"
    monkeypatch.setenv(CANARY, canary)
    life = a_life()
    with life.open() as (topology, _):
        members = [topology.worker("gen", 0, 0, 0.0), topology.worker("score", 0, 0, 0.0), *topology.ranks(0, 0.0)]
        engine, scorer, *ranks = answers(*members)
        names = set(ray.util.list_named_actors())
        dump_stacks(members, life.folder)
    assert (engine["gpus"], engine["visible"]) == ([0, 1, 2, 3], "0,1,2,3"), "all of one node"
    others = [scorer, *ranks]
    assert {one["node"] for one in others} == {"127.0.0.2", "127.0.0.3"} - {engine["node"]}
    assert sorted(one["visible"] for one in others) == ["0", "1", "2", "3"]
    assert len({one["meeting"] for one in ranks}) == 1
    assert ranks[0]["meeting"][0] == ranks[0]["node"], "they meet at the first rank's node"
    on_driver_node = {one["node"]: one["driver_pid"] for one in (engine, scorer)}
    assert on_driver_node == {"127.0.0.2": os.getpid(), "127.0.0.3": None}, "a process id means something on one node"
    assert names == {f"headrace/trial/e1/{name}.0" for name in ("gen-0", "score-0", "rank-0", "rank-1", "rank-2")}
    assert life.warnings == []
    assert {one["canary"] for one in (engine, *others)} == {sha256(canary.encode()).hexdigest()}
    for folder in (cluster[1], life.folder.path):
        written = [file for file in folder.rglob("*") if file.is_file() and canary.encode() in file.read_bytes()]
        assert written == [], "passed on, and written nowhere"


def test_what_a_dead_driver_left_is_ended_by_the_next_life_by_stop_and_by_removal(a_life):
    life = a_life(generation__engine={"tensor_parallel": 1}, training__ranks=1)
    life.folder.write(life.folder.recipe, recipes.dump(life.recipe))
    for take_over in ("life", "stop", "removal"):
        epoch = claim_epoch(life.store, kind="orchestrator", life={})
        abandoned = ExistingRay(life.recipe, life.folder, epoch=epoch)
        abandoned.open(life.warnings.append)
        topology = life.topology(epoch, abandoned)
        left = [topology.worker("gen", 0, 0, 0.0), *topology.ranks(0, 0.0)]
        answers(*left)
        ray.shutdown()  # its driver ends without a word
        names = [f"headrace/trial/e{epoch}/{name}.0" for name in ("gen-0", "rank-0")]
        if take_over == "stop":
            assert end_leftovers(life.recipe, life.folder) == names
            continue
        if take_over == "removal":
            with life.folder.locked():
                life.folder.write_json(life.folder.status, {"run": "trial", "state": "running"})
            removal.remove(life.folder.path)
            assert not life.folder.path.exists()
            continue
        with life.open() as (topology, _):
            answers(topology.worker("score", 0, 0, 0.0))
            assert ray.util.list_named_actors() == [f"headrace/trial/e{epoch + 1}/score-0.0"]
            assert end_actors("elsewhere", "other", up_to=99) == [], "what is another run's is left alone"
    connect(life.recipe, namespace="")
    try:
        until(lambda: ray.available_resources().get("GPU") == 8)
        assert ray.util.list_named_actors(all_namespaces=True) == []
    finally:
        ray.shutdown()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_doctor_looks_at_every_node_and_leaves_nothing_behind(a_life, tmp_path):
    life = a_life()
    before = sorted(tmp_path.rglob("*"))
    found = list(check_cluster(life.recipe))
    assert {one.node for one in found} == {"", "127.0.0.2", "127.0.0.3"}
    seen = {(one.check, one.severity) for one in found}
    assert {
        ("ray token", "warning"),
        ("shared folder", "ok"),
        ("node versions", "ok"),
        ("node clock", "ok"),
        ("node ports", "ok"),
    } <= seen
    assert [one for one in found if one.severity == "error"] == []
    for check in ("memory", "open files", "python", "torch"):
        assert {one.node for one in found if one.check == check} == {"127.0.0.2", "127.0.0.3"}
    assert not ray.is_initialized()
    assert sorted(tmp_path.rglob("*")) == before
    (gone,) = check_cluster(a_life(ray__address="127.0.0.1:1").recipe)
    assert (gone.severity, "cannot join that cluster" in gone.found) == ("error", True)


def test_a_demand_that_no_node_can_meet_is_refused_at_once(a_life):
    life = a_life(generation__engine={"tensor_parallel": 8}, training__ranks=1)
    with pytest.raises(RecipeError) as refused, life.open():
        pytest.fail("it was placed")
    assert refused.value.lines == (
        "ray.resources.generation = GPU 8, CPU 2: gen-0 needs this on one node, and no node of the cluster has it "
        "(127.0.0.2: GPU 4, CPU 8; 127.0.0.3: GPU 4, CPU 8); lower it (generation.engine.tensor_parallel), "
        "or add such a node",
    )


def test_no_room_in_time_says_what_was_asked_what_is_there_and_who_holds_it(a_life):
    life = a_life(ray__placement_s=1.5)
    connect(life.recipe, namespace="others")
    held = placement_group([{"GPU": 3}], name="their-group", lifetime="detached")
    assert held.wait(30)
    ray.shutdown()
    try:
        with pytest.raises(RunFailed) as failed, life.open():
            pytest.fail("it was placed")
    finally:
        connect(life.recipe, namespace="others")
        remove_placement_group(ray.util.get_placement_group("their-group"))
        until(lambda: ray.available_resources().get("GPU") == 8)
        ray.shutdown()
    line = str(failed.value)
    assert "ray.placement_s = 1.5: the cluster had no room in that time for rank (3 × GPU 1, CPU 1); it has " in line
    assert life.warnings[0].startswith("waiting for room on the cluster, 1.5 s at most: rank (3 × ")
    assert "127.0.0.2: GPU 4 (" in line
    assert "their-group (GPU 3)" in line


def test_nodes_that_differ_from_the_driver_are_named(a_life, monkeypatch):
    life = a_life(model__path=str(Path("/nowhere/model")))
    ours = nodes.versions.mine()
    monkeypatch.setattr(nodes.versions, "mine", lambda: {**ours, "torch": "9.9"})
    with pytest.raises(RecipeError) as refused, life.open():
        pytest.fail("it was taken")
    for node in ("127.0.0.2", "127.0.0.3"):
        remedy = "install the same packages on every node"
        assert f"node {node}: torch {ours['torch']}, and the driver has 9.9; {remedy}" in refused.value.lines
        assert any(
            line.startswith(f"model.path = /nowhere/model: node {node} cannot read it") for line in refused.value.lines
        )


def test_a_cluster_that_does_not_answer_is_refused_within_seconds():
    with pytest.raises(RecipeError, match=r"ray\.address = 127\.0\.0\.9:1: cannot join that cluster \(.*refused\)"):
        connect(a_recipe(ray__address="127.0.0.9:1"), namespace="")
