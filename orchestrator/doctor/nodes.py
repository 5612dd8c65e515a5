"""The nodes of an existing Ray cluster, each looked at by a process of ours there, which lives for that one question."""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator import versions
from orchestrator.config import Recipe
from orchestrator.doctor import gpu, reach
from orchestrator.doctor.checking import examine
from orchestrator.doctor.clocks import skew_finding
from orchestrator.doctor.finding import Finding, error, ok, warning
from orchestrator.doctor.machine import checks
from orchestrator.doctor.ray_access import check_access
from orchestrator.doctor.store import meeting_folder, store_folder
from orchestrator.existing_ray import connect
from orchestrator.recipe import RecipeError
from orchestrator.reservation import addresses

_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""The same for all that runs on one kernel."""
_PORTS_S = 60.0
"""For a node to try all others: far above what it takes where they answer."""


@ray.remote(num_cpus=0, max_restarts=0)
class NodeDoctor:
    """One question a call; answers are numbers, strings and mappings of them."""

    def __init__(self) -> None:
        self._open: socket.socket | None = None

    def open_port(self) -> int:
        """A port of this node's address that others may try until this process ends."""
        self._open = reach.listening(ray.util.get_node_ip_address())
        return int(self._open.getsockname()[1])

    def try_ports(self, targets: Mapping[str, int]) -> list[str]:
        """See reach.unreached."""
        return reach.unreached(targets)

    def clock(self) -> float:
        """Unix seconds."""
        return time.time()

    def look(self, question: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        """`environment` comes by a call, never with the creation: Ray keeps a record of that."""
        os.environ.update(environment)
        looks = checks(folders={name: Path(one) for name, one in question["folders"].items()}, with_server=False)
        return {
            "findings": [one.as_dict() for one in examine(looks)],
            "versions": versions.mine(),
            "boot": _BOOT.read_text(),
            "gpu": gpu.facts(),
            "sees": bool(question["meeting"]) and _leave_file(Path(question["meeting"]), question["node"]),
            "model": os.access(question["model"], os.R_OK),
        }


def _leave_file(meeting: Path, node: str) -> bool:
    """Whether the driver's file is seen here; ours is left beside it."""
    if not (meeting / "driver").exists():
        return False
    (meeting / node).write_text(node)
    return True


def check_cluster(recipe: Recipe) -> Iterator[Finding]:
    """Every living node; findings bear its address."""
    try:
        connect(recipe, namespace="")
    except RecipeError as refused:
        for line in refused.lines:
            reason, _, remedy = line.rpartition("; ")
            yield error("ray", reason, "the run lives there", remedy)
        return
    try:
        yield from check_access(recipe)
        there = {one["NodeID"]: addresses()[one["NodeID"]] for one in ray.nodes() if one["Alive"]}
        yield ok("ray", f"{len(there)} nodes: {' '.join(there.values())}")
        if recipe.store.in_bucket:
            yield from _compare(_ask(recipe, there, meeting=None), recipe)
        else:
            with meeting_folder(store_folder(recipe)) as meeting:
                (meeting / "driver").touch()
                answers = _ask(recipe, there, meeting=meeting)
                yield from _compare(answers, recipe)
                yield from _share(answers, meeting, recipe)
    finally:
        ray.shutdown()


def _ask(recipe: Recipe, there: Mapping[str, str], *, meeting: Path | None) -> dict[str, dict[str, Any] | Finding]:
    """By address, the answer, or why there is none."""
    environment = recipe.ray.environment(dict(os.environ))
    doctors, calls = {}, {}
    for node, address in there.items():
        where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        doctors[address] = NodeDoctor.options(scheduling_strategy=where).remote()  # type: ignore[attr-defined]
        question = {
            "folders": {"run.root": recipe.run.root},
            "meeting": str(meeting) if meeting else "",
            "node": address,
            "model": recipe.model.path,
        }
        calls[address] = doctors[address].look.remote(question, environment)
    answers: dict[str, dict[str, Any] | Finding] = {}
    for address, call in calls.items():
        try:
            answer = ray.get(call, timeout=recipe.supervise.starting_s)
            answers[address] = {**answer, "skew": _skew(doctors[address])}
        except (GetTimeoutError, RayError) as failure:
            answers[address] = _no_answer(failure)
    _reach_one_another(
        {address: doctors[address] for address, one in answers.items() if isinstance(one, dict)}, answers
    )
    for doctor in doctors.values():
        ray.kill(doctor)
    return answers


def _no_answer(failure: Exception) -> Finding:
    cause = " ".join(str(failure).strip().splitlines()[-1:])
    return error(
        "node",
        f"no answer ({type(failure).__name__}: {cause})",
        "no process of a run would come up there either",
        "install the same packages there, and see that the node is not overloaded, or take it out of the cluster",
    )


def _reach_one_another(doctors: Mapping[str, Any], answers: dict[str, dict[str, Any] | Finding]) -> None:
    """Add to each answer the nodes that this one does not reach."""
    ports = _got({address: doctor.open_port.remote() for address, doctor in doctors.items()}, answers)
    tried = {
        address: doctors[address].try_ports.remote({other: port for other, port in ports.items() if other != address})
        for address in ports
    }
    for address, unreached in _got(tried, answers).items():
        answer = answers[address]
        assert isinstance(answer, dict)
        answer["unreached"] = unreached


def _got(calls: Mapping[str, Any], answers: dict[str, dict[str, Any] | Finding]) -> dict[str, Any]:
    """By address; a node that fails meanwhile has that in place of its answer, and costs those of no other."""
    found = {}
    for address, call in calls.items():
        try:
            found[address] = ray.get(call, timeout=_PORTS_S)
        except (GetTimeoutError, RayError) as failure:
            answers[address] = _no_answer(failure)
    return found


def _skew(doctor: Any) -> tuple[float, float]:
    """(seconds that its clock is ahead of ours, half of what asking took), of the quickest of three calls."""
    tries = []
    for _ in range(3):
        asked = time.time()
        theirs = ray.get(doctor.clock.remote(), timeout=60)
        answered = time.time()
        tries.append((theirs - (asked + answered) / 2, (answered - asked) / 2))
    return min(tries, key=lambda one: one[1])


def _compare(answers: Mapping[str, dict[str, Any] | Finding], recipe: Recipe) -> Iterator[Finding]:
    mine, boots = versions.mine(), set()
    for address, answer in answers.items():
        if isinstance(answer, Finding):
            yield _at(answer, address)
            continue
        boots.add(answer["boot"])
        yield from (_at(Finding.of(one), address) for one in answer["findings"])
        yield from (_at(one, address) for one in _versions(answer["versions"], mine))
        ahead_s, within_s = answer["skew"]
        yield _at(skew_finding("node clock", ahead_s, within_s=within_s), address)
        if not answer["model"]:
            found = f"model.path = {recipe.model.path}: cannot be read"
            remedy = "put it at the same path on every node, or on a shared filesystem"
            yield _at(error("node model", found, "engines, scorers and ranks load it where they are", remedy), address)
    yield from _alike(answers)
    yield from _connected(answers)
    if len(boots) > 1 and not recipe.experience.external:
        yield error(
            "redis",
            f"experience.url = {recipe.experience.url}",
            "its server takes connections on one machine alone, and the cluster has several",
            "set experience.url=redis://host:port/db, or rediss:// for TLS",
        )


def _versions(theirs: Mapping[str, str], mine: Mapping[str, str]) -> Iterator[Finding]:
    different = [f"{name} {theirs.get(name, 'is absent')} (driver: {mine.get(name, 'none')})"
                 for name in sorted(theirs.keys() | mine.keys()) if theirs.get(name) != mine.get(name)]  # fmt: skip
    if different:
        why = "processes of one run speak to one another, and compute the same"
        yield error("node versions", ", ".join(different), why, "install the same packages on every node")
    else:
        yield ok("node versions", "as the driver's")


def _alike(answers: Mapping[str, dict[str, Any] | Finding]) -> Iterator[Finding]:
    """GPUs and drivers of the nodes that have some."""
    kinds: dict[str, list[str]] = {}
    for address, answer in answers.items():
        if isinstance(answer, dict) and answer["gpu"]["gpus"]:
            kinds.setdefault(gpu.shown(answer["gpu"]), []).append(address)
    if len(kinds) > 1:
        found = "; ".join(f"{kind} on {', '.join(nodes)}" for kind, nodes in kinds.items())
        why = "ranks wait for the slowest, and collectives between drivers that differ may fail"
        yield warning("node gpus", found, why, "keep the nodes of a role alike: custom resources in ray.resources")
    elif kinds:
        yield ok("node gpus", f"alike on {sum(map(len, kinds.values()))} nodes: {next(iter(kinds))}")


def _connected(answers: Mapping[str, dict[str, Any] | Finding]) -> Iterator[Finding]:
    apart = {address: answer["unreached"] for address, answer in answers.items() if isinstance(answer, dict)}
    if found := reach.shown(apart):
        yield error(
            "node ports",
            found,
            "ranks meet at a free port of one of their nodes, and exchange gradients at others",
            "let the firewall (security group, network policy) pass all ports between the nodes of the cluster",
        )
    elif len(apart) > 1:
        yield ok("node ports", f"all {len(apart)} nodes reach one another at ports of their choice")


def _share(answers: Mapping[str, dict[str, Any] | Finding], meeting: Path, recipe: Recipe) -> Iterator[Finding]:
    """Whether all nodes look at one folder: each sees the driver's file, and the driver those of all."""
    asked = {address for address, answer in answers.items() if isinstance(answer, dict)}
    blind = sorted(address for address in asked if not (meeting / address).exists())
    key = "store.url" if recipe.store.url else "run.root"
    where = f"{key} = {store_folder(recipe)}"
    if blind:
        yield error(
            "shared folder",
            f"{where}: not one folder for {', '.join(blind)} and the driver",
            "versions that ranks publish would not be there for engines on other nodes",
            "set store.url to a folder that every node shares, or to s3://bucket/prefix",
        )
    else:
        yield ok("shared folder", f"{where}: one folder for all {len(asked)} nodes")


def _at(finding: Finding, address: str) -> Finding:
    return Finding.of({**finding.as_dict(), "node": address})
