"""The trainer's state machine: which collective operation comes next, and what becomes of it all when a rank fails."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from orchestrator_ranks import Cluster, outcome
from orchestrator_recipes import a_recipe

import orchestrator.trainer
from orchestrator.errors import RunFailed
from orchestrator.trainer import Trainer

STEPS = 6


@pytest.fixture(autouse=True)
def _transport(monkeypatch):
    monkeypatch.setattr(orchestrator.trainer, "outcome", outcome)


class Driver:
    """Ticks a trainer on a clock of its own, and keeps what it reported."""

    def __init__(self, cluster: Cluster, **changes: Any) -> None:
        changes = {"run__steps": STEPS, "training__checkpoint": {"interval_steps": 2, "interval_s": None}} | changes
        self.cluster, self.now = cluster, 0.0
        self.reported: list[int] = []
        self.announced: list[int] = []
        self.trainer = Trainer(
            a_recipe(**changes),
            spawn=cluster.spawn,
            committed=cluster.committed,
            published=max(cluster.versions, default=-1),
            on_step=lambda report: self.reported.append(report["step"]),
            on_published=lambda answer: self.announced.append(answer["number"]),
        )

    def tick(self, count: int = 1, *, seconds: float = 0.1) -> None:
        for _ in range(count):
            self.now += seconds
            self.trainer.tick(self.now)

    def until(self, condition: Callable[[], bool], limit: int = 400) -> None:
        for _ in range(limit):
            if condition():
                return
            self.tick()
        raise AssertionError(f"never came true; the trainer is at {self.trainer.doing()}")

    def until_quiet(self, limit: int = 200) -> None:
        """Until five ticks change nothing."""
        seen, quiet = None, 0
        for _ in range(limit):
            self.tick()
            state = (len(self.cluster.calls), sum(call.finished for call in self.cluster.calls), self.trainer.step)
            quiet = quiet + 1 if state == seen else 0
            seen = state
            if quiet == 5:
                return
        raise AssertionError("the trainer never comes to rest")


def collective(cluster: Cluster) -> list[tuple[Any, ...]]:
    return [operation for operation in cluster.operations if operation[0] != "compose"]


def test_from_scratch_each_step_is_trained_then_published_then_saved():
    cluster = Cluster()
    driver = Driver(cluster, run__steps=3)
    driver.until_quiet()
    assert collective(cluster) == [
        ("publish", 0),
        ("train", 1),
        ("publish", 1),
        ("train", 2),
        ("publish", 2),
        ("checkpoint", 2, 2),
        ("train", 3),
        ("publish", 3),
        ("checkpoint", 3, 3),
    ]
    assert cluster.done("compose") == [1, 2, 3]
    assert driver.trainer.finished
    assert (driver.reported, driver.announced, cluster.cuts) == ([1, 2, 3], [0, 1, 2, 3], [0, 2, 3])
    assert [call.what[0] for call in cluster.calls].count("prune") == 2


def test_every_rank_is_called_for_every_collective_operation():
    cluster = Cluster(world=3)
    Driver(cluster).until_quiet()
    made = [call.what for call in cluster.calls if call.what[0] in ("train", "publish", "checkpoint")]
    assert made == [operation for operation in made[::3] for _ in range(3)]


def test_nothing_begins_before_every_rank_is_ready():
    cluster = Cluster()
    driver = Driver(cluster)
    driver.tick()
    cluster.ranks[1].ready = False
    driver.tick(5)
    assert not driver.trainer.started
    assert cluster.calls == []
    assert driver.trainer.doing() == "starting"
    cluster.ranks[1].ready = True
    driver.tick()
    assert driver.trainer.started


def test_a_batch_is_composed_while_the_one_before_is_trained_and_no_further():
    cluster = Cluster(held={"train"})
    driver = Driver(cluster)
    driver.until_quiet()
    assert cluster.done("compose") == [1, 2]
    assert driver.trainer.doing() == "train 1"
    cluster.release("train")
    cluster.held = {"train"}
    driver.until_quiet()
    assert cluster.done("compose") == [1, 2, 3]
    assert cluster.done("train") == [1, 2]


def test_the_last_batch_is_the_last_one_composed():
    cluster = Cluster(held={"train"}, committed=STEPS - 1, cuts=[STEPS - 2])
    driver = Driver(cluster)
    driver.until_quiet()
    assert cluster.done("compose") == [STEPS]
    cluster.release("train")
    driver.until_quiet()
    assert cluster.done("compose") == [STEPS]
    assert driver.trainer.finished


def test_a_batch_that_is_not_committed_is_not_trained():
    cluster = Cluster(held={"compose"})
    driver = Driver(cluster)
    driver.until_quiet()
    assert collective(cluster) == [("publish", 0)]
    assert driver.trainer.doing() == "compose 1"
    cluster.release("compose")
    driver.until_quiet()
    assert driver.trainer.finished


def test_an_operation_lasts_until_every_rank_has_finished_it():
    cluster = Cluster(held={"train"})
    driver = Driver(cluster)
    driver.until_quiet()
    first, second = cluster.running("train")
    first.finish()
    driver.until_quiet()
    assert driver.trainer.step == 0
    assert driver.reported == []
    second.finish()
    driver.tick()
    assert driver.trainer.step == 1


def test_a_version_still_being_written_is_passed_over_and_made_up_for():
    cluster = Cluster()
    driver = Driver(cluster)
    driver.until(lambda: driver.trainer.published == 0)
    cluster.held = {"published"}
    driver.until_quiet()
    assert cluster.versions == [0]
    assert cluster.done("publish") == [0, 1]
    assert driver.trainer.step == STEPS
    assert not driver.trainer.finished
    assert driver.trainer.doing() == "writing a version"
    cluster.release("published")
    driver.until_quiet()
    assert cluster.done("publish") == [0, 1, STEPS]
    assert driver.trainer.finished


def test_a_checkpoint_still_being_written_is_passed_over_and_made_up_for():
    cluster = Cluster(held={"saved"})
    driver = Driver(cluster)
    driver.until_quiet()
    assert cluster.done("checkpoint") == [2]
    assert driver.trainer.step == STEPS
    assert driver.trainer.doing() == "writing a checkpoint"
    cluster.release("saved")
    driver.until_quiet()
    assert cluster.cuts == [0, 2, STEPS]
    assert driver.trainer.finished


def test_a_run_is_over_once_what_is_old_has_been_deleted():
    cluster = Cluster(held={"prune"})
    driver = Driver(cluster)
    driver.until_quiet()
    assert cluster.done("checkpoint") == [2]  # the next one waits for it
    assert not driver.trainer.settled
    assert [call.what[0] for call in driver.trainer.pending_calls()] == ["prune"]
    cluster.release("prune")
    driver.until_quiet()
    assert cluster.cuts == [0, 2, STEPS]
    assert driver.trainer.finished


def test_a_checkpoint_names_the_newest_version_that_is_whole():
    cluster = Cluster()
    driver = Driver(cluster)
    driver.until(lambda: driver.trainer.published == 0)
    cluster.held = {"published"}
    driver.until_quiet()
    assert next(operation for operation in cluster.operations if operation[0] == "checkpoint") == ("checkpoint", 2, 0)


@pytest.mark.parametrize(("interval", "versions"), [(1, [0, 1, 2, 3, 4, 5, 6]), (2, [0, 2, 4, 6]), (4, [0, 4, 6])])
def test_publishing_counts_batches_and_ends_with_the_last_step(interval, versions):
    cluster = Cluster()
    driver = Driver(cluster, pacing__publish_interval_batches=interval)
    driver.until_quiet()
    assert cluster.versions == versions
    assert driver.trainer.finished


def test_a_checkpoint_is_also_due_after_some_seconds():
    cluster = Cluster(held={"compose"})
    driver = Driver(cluster, training__checkpoint={"interval_steps": 100, "interval_s": 30.0})
    driver.until_quiet()
    driver.tick(seconds=40)
    driver.until_quiet()
    assert cluster.done("checkpoint") == []  # nothing was trained since cut 0
    cluster.release("compose")
    cluster.held = {"compose"}
    driver.until_quiet()
    assert cluster.done("train") == [1]
    assert cluster.done("checkpoint") == [1]
    cluster.release("compose")
    driver.until_quiet()
    assert cluster.done("checkpoint") == [1, STEPS]


def test_a_stop_publishes_and_saves_the_step_in_hand_and_begins_nothing_new():
    cluster = Cluster(held={"train"})
    driver = Driver(cluster, pacing__publish_interval_batches=4)
    driver.until_quiet()
    driver.trainer.final = True
    cluster.release("train")
    driver.until_quiet()
    assert driver.trainer.settled
    assert not driver.trainer.finished
    assert driver.trainer.doing() == "idle"
    assert collective(cluster) == [("publish", 0), ("train", 1), ("publish", 1), ("checkpoint", 1, 1)]
    assert cluster.committed == 2  # composed ahead: the resume trains it


def test_a_stop_gives_up_the_batch_that_waits_for_groups():
    cluster = Cluster(held={"compose"})
    driver = Driver(cluster)
    driver.until_quiet()
    driver.trainer.final = True
    driver.until_quiet()
    assert cluster.ranks[0].stopped
    assert driver.trainer.restarts == 0
    assert driver.trainer.settled
    assert driver.trainer.pending_calls() == []
    assert cluster.done("compose") == [1]


def test_a_stop_keeps_the_batch_that_is_committed_meanwhile():
    cluster = Cluster(held={"compose"})
    driver = Driver(cluster)
    driver.until_quiet()
    driver.trainer.final = True
    cluster.release("compose")
    driver.until_quiet()
    assert driver.trainer.committed == 1
    assert cluster.done("train") == []


def fail_pulse(cluster: Cluster) -> None:
    cluster.ranks[1].death = "no heartbeat for 11 s"


def failing(name: str, place: int = 0) -> Any:
    return lambda cluster: cluster.running(name)[place].fail("its process died")


@pytest.mark.parametrize(
    ("held", "strike", "cause"),
    [
        ("train", fail_pulse, "rank-1: no heartbeat for 11 s"),
        ("train", failing("train", 1), "rank-1 in train: its process died"),
        ("publish", failing("publish"), "rank-0 in publish: its process died"),
        ("checkpoint", failing("checkpoint", 1), "rank-1 in checkpoint: its process died"),
        ("compose", failing("compose"), "composing: its process died"),
        ("published", failing("published"), "publishing: its process died"),
        ("saved", failing("saved"), "saving: its process died"),
        ("prune", failing("prune"), "pruning: its process died"),
    ],
)
def test_the_failure_of_any_part_restarts_all_ranks_and_forgets_what_was_in_flight(held, strike, cause, caplog):
    cluster = Cluster(held={held})
    driver = Driver(cluster, supervise__restart_backoff_s=1.0)
    driver.until_quiet()
    first = cluster.ranks
    caplog.clear()
    with caplog.at_level("WARNING"):
        strike(cluster)
        driver.tick()
    assert all(rank.killed for rank in first)
    assert [record.cause for record in caplog.records] == [cause]
    assert (driver.trainer.restarts, driver.trainer.started, driver.trainer.pending_calls()) == (1, False, [])
    driver.tick(9)
    assert len(cluster.lives) == 1  # backing off
    driver.tick(2)
    assert len(cluster.lives) == 2
    for call in cluster.calls:  # what the dead still had in hand comes to nothing
        call.finished = True
        call.value = {"step": 99, "number": 99, "epoch": 1}
    cluster.held = set()
    driver.until_quiet()
    assert driver.trainer.finished
    assert cluster.cuts[-1] == cluster.versions[-1] == STEPS


def test_the_steps_after_the_newest_cut_are_trained_again_from_the_ledger():
    cluster = Cluster()
    driver = Driver(cluster, training__checkpoint={"interval_steps": 100, "interval_s": None})
    driver.until(lambda: driver.trainer.step == 4)
    cluster.held = {"train"}
    driver.until_quiet()
    cluster.ranks[0].death = "its process died"
    driver.tick()
    cluster.held = set()
    driver.until(lambda: driver.trainer.finished)
    assert cluster.done("train") == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6]
    assert driver.reported == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert cluster.done("compose") == [1, 2, 3, 4, 5, 6]
    assert cluster.versions == [0, 1, 2, 3, 4, 5, 6]
    assert driver.trainer.finished


def test_a_resume_trains_committed_batches_and_publishes_no_old_version_again():
    cluster = Cluster(committed=5, cuts=[0, 2], versions=[0, 1, 2, 3, 4])
    driver = Driver(cluster)
    driver.until_quiet()
    assert cluster.done("train") == [3, 4, 5, 6]
    assert cluster.done("compose") == [6]
    assert cluster.done("publish") == [5, 6]
    assert driver.announced == [5, 6]
    assert [operation[2] for operation in cluster.operations if operation[0] == "checkpoint"] == [4, 6]


def test_a_resume_publishes_once_it_has_caught_up_whatever_the_interval():
    """The newest whole version is 2 although version 4 was served: the prompts that wait for it must not wait forever."""
    cluster = Cluster(committed=5, cuts=[0, 2], versions=[0, 2])
    cluster.held = {"compose"}
    driver = Driver(cluster, pacing={"publish_interval_batches": 4, "max_staleness": 3})
    driver.until_quiet()
    assert driver.trainer.step == 5
    assert cluster.done("publish") == [5]


def test_a_finished_run_has_nothing_to_do():
    cluster = Cluster(committed=STEPS, cuts=[0, STEPS], versions=[STEPS])
    driver = Driver(cluster)
    driver.tick(2)
    assert driver.trainer.finished
    assert cluster.calls == []


def die_at(cluster: Cluster, driver: Driver, step: int) -> None:
    """One life that ends in the middle of a step."""
    cluster.held = {f"train {step}"}
    driver.until(lambda: bool(cluster.running("train")))
    cluster.ranks[0].death = "its process died"
    driver.tick()


def test_steps_that_are_trained_again_are_no_progress():
    cluster = Cluster()
    settings = {"interval_steps": 100, "interval_s": None}
    driver = Driver(cluster, supervise__restart_limit=2, training__checkpoint=settings)
    die_at(cluster, driver, 3)
    die_at(cluster, driver, 3)
    with pytest.raises(RunFailed, match=r"the trainer died 3 times without a step trained in between: rank-0: its process died"):  # fmt: skip
        die_at(cluster, driver, 3)
    assert [call.what for call in cluster.calls if call.what[0] == "train"].count(("train", 2)) == 6


def test_a_step_trained_for_the_first_time_forgives():
    cluster = Cluster()
    settings = {"interval_steps": 100, "interval_s": None}
    driver = Driver(cluster, supervise__restart_limit=1, training__checkpoint=settings)
    for step in range(2, STEPS + 1):
        die_at(cluster, driver, step)
    cluster.held = set()
    driver.until(lambda: driver.trainer.finished)
    assert driver.trainer.restarts == STEPS - 1


def test_the_wait_before_a_restart_doubles():
    cluster = Cluster()
    driver = Driver(cluster, supervise__restart_backoff_s=1.0)
    waits = []
    for life in range(3):
        driver.until(lambda life=life: len(cluster.lives) == life + 1)
        cluster.ranks[0].death = "its process died"
        driver.tick()
        died = driver.now
        driver.until(lambda life=life: len(cluster.lives) == life + 2)
        waits.append(round(driver.now - died))
    assert waits == [1, 2, 4]


def test_only_calls_that_still_run_are_worth_waiting_for():
    cluster = Cluster(held={"train", "compose", "published"})
    driver = Driver(cluster)
    driver.until_quiet()
    assert {call.what[0] for call in driver.trainer.pending_calls()} == {"compose", "published"}
    cluster.release("compose")
    driver.until_quiet()
    first, second = cluster.running("train")
    first.finish()
    driver.tick()
    assert first not in driver.trainer.pending_calls()
    assert second in driver.trainer.pending_calls()


NAMES = ("train", "publish", "checkpoint", "compose", "published", "saved", "prune")


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_whatever_the_order_of_answers_and_deaths_the_run_completes(data):
    """Calls finish in any order, ranks die at any time; the strict ranks refuse whatever should not be asked of them."""
    cluster = Cluster(held=set(NAMES))
    driver = Driver(
        cluster,
        pacing__publish_interval_batches=data.draw(st.integers(1, 3), "K"),
        supervise__restart_limit=1000,
        training__checkpoint={"interval_steps": data.draw(st.integers(1, 4), "interval"), "interval_s": None},
    )
    for _ in range(data.draw(st.integers(0, 150), "ticks")):
        driver.tick()
        life = len(cluster.lives) - 1
        pending = [call for call in cluster.calls if not call.finished and call.life == life]
        for call in data.draw(st.lists(st.sampled_from(pending), max_size=2) if pending else st.just([]), "finish"):
            call.finish()
        if data.draw(st.integers(0, 30), "death") == 30:
            data.draw(st.sampled_from(cluster.ranks), "who").death = "its process died"
    for rank in cluster.ranks if cluster.lives else []:
        rank.death = None if not rank.killed else rank.death
    for name in NAMES:
        cluster.release(name)
    driver.tick(5, seconds=100)
    driver.until_quiet(limit=400)
    assert driver.trainer.finished
    assert cluster.committed == cluster.versions[-1] == cluster.cuts[-1] == STEPS
    assert driver.announced == sorted(set(driver.announced))
    assert set(driver.reported) == set(range(1, STEPS + 1))
