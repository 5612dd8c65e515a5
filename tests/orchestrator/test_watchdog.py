"""The watchdog: it follows progress alone, says who waits for whom, and has every worker's stacks before it ends the run."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from experience.buffer import Snapshot
from experience.schema import Settlement
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.member import Member
from orchestrator.sections import SuperviseConfig
from orchestrator.watchdog import PoisonBrake, Watchdog, diagnose

STREAMS = ("prompts", "completions", "experience", "quarantine")


def a_snapshot(*, committed: int = 4, live: int = 8, **depths: int) -> Snapshot:
    streams = dict.fromkeys(STREAMS, 0) | depths
    return Snapshot(live=live, committed=committed, next_sequence=40, cursor=40, depths=streams)


def a_trainer(*, step: int = 4, doing: str = "compose 5", ranks: tuple[Any, ...] = ()) -> Any:
    return SimpleNamespace(started=step >= 0, step=step, published=3, doing=lambda: doing, ranks=list(ranks))


def a_supervisor(*members: Any) -> Any:
    return SimpleNamespace(members=lambda: list(members))


@pytest.mark.parametrize(
    ("snapshot", "trainer", "verdict"),
    [
        (a_snapshot(prompts=3), a_trainer(step=-1, doing="starting"), "the trainer's ranks have not started"),
        (a_snapshot(prompts=3), a_trainer(step=3, doing="train 4"), "the trainer has batch 4 and does not finish it (train 4)"),
        (a_snapshot(prompts=3, completions=2, experience=1), a_trainer(), "generation holds 3 groups: the trainer and the scorers wait for it"),
        (a_snapshot(completions=2, experience=1), a_trainer(), "scoring holds 2 groups: the trainer waits for it"),
        (a_snapshot(live=0), a_trainer(doing="writing a version"), "nothing is in flight: admission waits for a newer version to be published"),
        (a_snapshot(experience=8), a_trainer(), "8 groups have arrived and rank 0 does not commit them (compose 5)"),
        (a_snapshot(live=0, quarantine=8), a_trainer(), "nothing is in flight: admission waits for a newer version to be published"),
    ],
)  # fmt: skip
def test_the_verdict_names_the_one_that_all_others_wait_for(snapshot, trainer, verdict):
    assert diagnose(snapshot, trainer, a_supervisor())["verdict"] == verdict


def test_the_verdict_on_generation_says_who_refuses_a_version():
    gens = [
        SimpleNamespace(name=f"gen-{i}", status={"refused": why})
        for i, why in enumerate(["", "v3/shard-0: expected …"])
    ]
    report = diagnose(a_snapshot(prompts=3), a_trainer(), a_supervisor(*gens))
    assert report["verdict"] == (
        "generation holds 3 groups: the trainer and the scorers wait for it; gen-1 refuses a version: v3/shard-0: expected …"
    )


def test_the_diagnosis_holds_all_that_the_driver_knows():
    gen = SimpleNamespace(name="gen-0", status={"state": "running", "running": 3})
    rank = SimpleNamespace(name="rank-0", status={"state": "running", "step": 4})
    report = diagnose(a_snapshot(prompts=3), a_trainer(ranks=(rank,)), a_supervisor(gen))
    assert report == {
        "verdict": "generation holds 3 groups: the trainer and the scorers wait for it",
        "step": 4,
        "committed": 4,
        "published": 3,
        "live": 8,
        "streams": {"prompts": 3, "completions": 0, "experience": 0, "quarantine": 0},
        "trainer": "compose 5",
        "workers": {"rank-0": rank.status, "gen-0": gen.status},
    }


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "trial")
    folder.create()
    return folder


def test_a_stall_ends_the_run_with_the_verdict_and_leaves_the_diagnosis(folder):
    watchdog = Watchdog(SuperviseConfig(stall_s=60.0), folder)
    tick = lambda now: watchdog.tick(now, a_snapshot(prompts=3), a_trainer(), a_supervisor())  # noqa: E731
    for now in (1000.0, 1030.0, 1060.0):
        tick(now)
    assert not folder.diagnosis.exists()
    with pytest.raises(RunFailed) as caught:
        tick(1060.5)
    assert str(caught.value) == (
        "no progress for 60 s: generation holds 3 groups: the trainer and the scorers wait for it; "
        f"see {folder.diagnosis} and the stacks in {folder.logs}"
    )
    assert json.loads(folder.diagnosis.read_text())["verdict"].startswith("generation holds 3 groups")


def test_a_batch_committed_or_a_step_trained_is_progress_and_arrivals_are_none(folder):
    watchdog = Watchdog(SuperviseConfig(stall_s=60.0), folder)
    watchdog.tick(0.0, a_snapshot(committed=4), a_trainer(step=4), a_supervisor())
    watchdog.tick(50.0, a_snapshot(committed=5), a_trainer(step=4), a_supervisor())
    watchdog.tick(100.0, a_snapshot(committed=5), a_trainer(step=5), a_supervisor())
    watchdog.tick(150.0, a_snapshot(committed=5, live=7, experience=1), a_trainer(step=5), a_supervisor())
    with pytest.raises(RunFailed):
        watchdog.tick(161.0, a_snapshot(committed=5, live=6, experience=2), a_trainer(step=5), a_supervisor())


WORKER = """
import faulthandler, signal, sys, threading
def stuck_in_generation():
    threading.Event().wait()
faulthandler.register(signal.SIGUSR1, file=open(sys.argv[1], "a"), all_threads=True)
threading.Thread(target=stuck_in_generation, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
"""Listens as the actor host does."""


class Unheard:
    """An actor of another node, or one that has not started: it is asked and never answers."""

    def __init__(self) -> None:
        self.stacks = SimpleNamespace(remote=lambda: None)


def a_member(name: str, **status: Any) -> Member:
    """The real one around a process of the test's own."""
    member = Member.__new__(Member)
    member.name, member.status, member.actor, member._driver_node = name, status, Unheard(), "here"
    return member


def test_every_worker_has_written_its_stacks_when_the_run_ends(folder):
    """The run's end kills all workers at once: who is killed before he is scheduled has said nothing."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder.logs / f"gen-{index}.stacks")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for index in range(3)
    ]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    members = [a_member(f"gen-{index}", pid=worker.pid, node="here") for index, worker in enumerate(workers)]
    members += [a_member("gen-7", pid=gone.pid, node="here"), a_member("gen-8", state="starting")]
    watchdog = Watchdog(SuperviseConfig(stall_s=60.0), folder)
    try:
        for worker in workers:
            worker.stdout.readline()
        watchdog.tick(0.0, a_snapshot(), a_trainer(), a_supervisor(*members))
        with pytest.raises(RunFailed):
            watchdog.tick(61.0, a_snapshot(), a_trainer(), a_supervisor(*members))
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
            worker.communicate()
    for index in range(3):
        assert "stuck_in_generation" in (folder.logs / f"gen-{index}.stacks").read_text()


class Poisoned:
    """What the brake reads of a buffer."""

    def __init__(self, ends: int) -> None:
        self.ends = ends

    def settled(self) -> list[Settlement]:
        return [
            Settlement(sequence=n, prompt_id=f"p:0:{n}", attempt=0, outcome="quarantined", reason=f"broken {n}")
            for n in range(self.ends)
        ]


def test_the_brake_ends_a_run_whose_groups_all_fail() -> None:
    brake = PoisonBrake(batch_groups=2)
    for quarantined in (0, 1, 3):
        brake.tick(a_snapshot(quarantine=quarantined), Poisoned(quarantined))
    with pytest.raises(RunFailed, match=r"4 groups were quarantined since batch \d+ .* because of: broken 3"):
        brake.tick(a_snapshot(quarantine=4), Poisoned(4))


def test_the_brake_forgives_what_an_earlier_life_met() -> None:
    """Else a run that it has ended could never go on, its reward repaired."""
    brake = PoisonBrake(batch_groups=2)
    for quarantined in (4, 5, 7):
        brake.tick(a_snapshot(quarantine=quarantined), Poisoned(quarantined))
    with pytest.raises(RunFailed, match="4 groups were quarantined since"):
        brake.tick(a_snapshot(quarantine=8), Poisoned(8))


def test_the_brake_forgives_what_a_batch_has_recorded() -> None:
    brake = PoisonBrake(batch_groups=2)
    brake.tick(a_snapshot(quarantine=9), Poisoned(1))
