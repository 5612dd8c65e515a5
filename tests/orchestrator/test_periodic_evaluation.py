"""Evaluation during a run, behind the calls that the driver makes: an evaluator whose answers and deaths the test decides,
a real store and run's folder, a clock of its own. Two seconds, of which most are imports."""

import json
from types import SimpleNamespace

import pytest
import torch
from orchestrator_ranks import Call, Remote, outcome

from orchestrator.evaluation.config import EvaluationConfig
from orchestrator.folder import RunFolder
from orchestrator.periodic import post
from orchestrator.periodic.best import replace_best
from orchestrator.periodic.evaluation import PeriodicEvaluation
from orchestrator.periodic.schedule import due
from orchestrator.sections import SuperviseConfig
from weightstore import publish
from weightstore.blobs import FileBlobStore
from weightstore.manifest import WeightVersion
from weightstore.pins import BEST, CANDIDATE, pins

CONFIG = EvaluationConfig(path="held_out.jsonl", interval_steps=4, deadline_s=100.0, patience_steps=8)
SUPERVISE = SuperviseConfig(restart_limit=2, restart_backoff_s=1.0, starting_s=50.0)


@pytest.fixture(autouse=True)
def _transport(monkeypatch):
    monkeypatch.setattr(post, "outcome", outcome)


class Evaluator:
    """A member that is ready at once; its calls stay running until `answer`."""

    def __init__(self, life):
        self.name, self.life = "eval-0", life
        self.ready, self.killed = True, False
        self.death = None
        self.calls = []
        self.actor = SimpleNamespace(call=Remote(self._call))

    def pulse(self, now):
        return self.death

    def kill(self):
        self.killed = True

    def _call(self, method, version):
        assert not self.killed
        self.calls.append(Call((method, version), self.life, lambda: None))
        return self.calls[-1]


class Lines:
    """A console."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


class Bench:
    """A run's evaluation over one folder, life after life."""

    def __init__(self, path):
        self.folder = RunFolder(path)
        self.folder.create()
        self.store = FileBlobStore(path)
        self.now, self.epoch = 0.0, 0
        self.members, self.reached = [], []

    def life(self, config=CONFIG, newest=None):
        self.epoch += 1
        self.console, self.members = Lines(), []
        self.evaluation = PeriodicEvaluation(
            config,
            SUPERVISE,
            folder=self.folder,
            store=self.store,
            lineage=0,
            run_epoch=self.epoch,
            newest=newest,
            spawn=self._spawn,
            console=self.console,
            reached=self._reached,
        )
        return self

    def _spawn(self, kind, index, life, now):
        assert (kind, index, life) == ("eval", 0, len(self.members))
        assert all(member.killed for member in self.members), "two evaluators at once"
        self.members.append(Evaluator(life))
        return self.members[-1]

    def _reached(self, point, step):
        self.reached.append((point, step))
        if (point, step) == getattr(self, "dies_at", None):
            raise KeyboardInterrupt

    def publish(self, number, epoch=1):
        version = WeightVersion(0, epoch, number)
        publish.write_shard(self.store, version, 0, {"a": torch.zeros(1)})
        facts = {"aliases": {}, "model_hash": "m", "tokenizer_hash": "t", "deadline_s": 5.0, "cancelled": lambda: 0}
        publish.commit(self.store, version, shards=1, step=number, **facts)
        self.evaluation.published(version)
        return version

    def tick(self, seconds=0.5, *, trained=True, final=False):
        self.now += seconds
        self.evaluation.tick(self.now, trained=trained, final=final)

    def running(self):
        """What is asked of the evaluator that lives."""
        calls = [call for call in self.members[-1].calls if not call.finished] if self.members else []
        return [" ".join(call.what) for call in calls if not self.members[-1].killed]

    def answer(self, **figures):
        (call,) = [call for call in self.members[-1].calls if not call.finished]
        call.value, call.finished = figures, True
        self.tick()

    def evaluated(self, number, win_rate, **more):
        """Publish, have it asked about, and answer."""
        self.publish(number)
        self.until(f"evaluate 0/1/{number}")
        self.answer(win_rate=win_rate, win_rate_low=win_rate - 0.1, win_rate_high=win_rate + 0.1, **more)

    def until(self, what):
        for _ in range(10):
            if self.running() == [what]:
                return
            self.tick()
        raise AssertionError(f"{what} was not asked, but {self.running()}")

    def export(self, number):
        """The evaluator writes the best one."""
        self.until(f"export 0/1/{number}")
        replace_best(self.folder.best, WeightVersion(0, 1, number), lambda out: out.mkdir())
        self.answer(out=str(self.folder.best))

    def lines(self):
        return [json.loads(line) for line in self.folder.evaluations.read_text().splitlines()]

    def pinned(self):
        return {name: version.number for name, version in pins(self.store, lineage=0).items()}


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "run").life()


def test_a_version_is_due_at_each_interval_and_at_the_end_once():
    settings = {"interval_steps": 4, "final": False}
    assert [n for n in range(12) if due(n, last=0, **settings)] == [4, 5, 6, 7, 8, 9, 10, 11]
    assert [n for n in range(12) if due(n, last=5, **settings)] == [8, 9, 10, 11]
    assert due(9, last=8, interval_steps=4, final=True)
    assert not due(9, last=9, interval_steps=4, final=True)
    assert not due(0, last=0, interval_steps=4, final=True)


def test_nothing_is_started_before_the_loop_has_trained_a_step(bench):
    bench.publish(4)
    bench.tick(trained=False)
    assert bench.members == []
    bench.tick()
    bench.tick()
    assert bench.running() == ["evaluate 0/1/4"]


def test_the_newest_stands_for_those_that_were_passed_meanwhile(bench):
    bench.evaluated(4, 0.5)
    bench.export(4)
    for number in (7, 8):
        bench.publish(number)
    bench.until("evaluate 0/1/8")
    for number in (9, 12, 16, 17):
        bench.publish(number)
        bench.tick()
    assert bench.running() == ["evaluate 0/1/8"], "one at a time"
    bench.answer(win_rate=0.4, win_rate_low=0.3, win_rate_high=0.5)
    bench.until("evaluate 0/1/17")
    assert [line["step"] for line in bench.lines()] == [4, 8]


def test_a_line_has_figures_version_and_seconds_and_the_best_is_pinned_and_exported(bench):
    bench.evaluated(4, 0.6, reward=1.5, kl=3.0)
    (line,) = bench.lines()
    assert {key: line[key] for key in ("epoch", "step", "version", "win_rate", "reward", "kl")} == {
        "epoch": 1, "step": 4, "version": "0/1/4", "win_rate": 0.6, "reward": 1.5, "kl": 3.0,
    }  # fmt: skip
    assert line["seconds"] == 0.5
    assert bench.console.said == ["evaluation  step 4  win rate 60.0% [50.0%, 70.0%]  reward 1.5  KL 3  best so far"]
    bench.export(4)
    bench.evaluated(8, 0.55)
    assert bench.pinned() == {BEST: 4, CANDIDATE: 8}
    assert bench.running() == []
    bench.evaluated(12, 0.7)
    bench.export(12)
    assert bench.pinned() == {BEST: 12, CANDIDATE: 12}
    status = bench.evaluation.status()
    assert (status["last"]["step"], status["best"]["step"], status["doing"]) == (12, 12, "idle")
    order = [point for point, step in bench.reached if step == 12]
    assert order == ["evaluation.asked", "evaluation.written", "best.pinned"]


def test_an_evaluator_killed_in_the_middle_is_replaced_and_asked_about_the_newest(bench):
    bench.publish(4)
    bench.until("evaluate 0/1/4")
    bench.members[0].death = "its process died"
    bench.tick()
    assert bench.members[0].killed
    bench.publish(5)
    bench.tick(0.4)
    assert len(bench.members) == 1, "it waits before it starts anew"
    bench.tick(1.0)
    bench.until("evaluate 0/1/5")
    bench.answer(win_rate=0.5, win_rate_low=0.4, win_rate_high=0.6)
    assert [line["step"] for line in bench.lines()] == [5]
    assert bench.evaluation.status()["restarts"] == 1


def test_an_evaluator_killed_while_it_exports_has_the_next_one_export(bench):
    bench.evaluated(4, 0.6)
    bench.until("export 0/1/4")
    bench.members[0].death = "its process died"
    bench.tick()
    assert not bench.evaluation.settled(bench.now), "the best one is still to be exported"
    bench.tick(2.0)
    bench.export(4)
    assert bench.evaluation.settled(bench.now)
    assert bench.running() == []


def test_a_best_one_that_cannot_be_written_is_not_asked_for_again(bench):
    bench.evaluated(4, 0.6)
    bench.until("export 0/1/4")
    bench.answer(refused="no space left on device")
    bench.tick()
    assert bench.running() == []
    assert bench.console.said[-1].endswith("best is not written: no space left on device")
    assert bench.evaluation.settled(bench.now)


def test_one_that_does_not_answer_in_time_is_ended(bench, caplog):
    bench.publish(4)
    bench.until("evaluate 0/1/4")
    bench.tick(101)
    assert bench.members[0].killed
    assert "no answer in evaluation.deadline_s = 100" in caplog.records[-1].cause


def test_failures_beyond_the_limit_end_the_evaluation_and_not_the_run(bench):
    bench.publish(4)
    for _ in range(SUPERVISE.restart_limit + 1):
        bench.tick(60)
        bench.tick(60)
        bench.members[-1].calls[-1].fail("EvaluationFailed: the judge says 500")
        bench.tick()
    assert [line for line in bench.console.said if line.startswith("warning: no further evaluation")] == [
        "warning: no further evaluation in this life of the run: eval-0 failed 3 times in a row: "
        "evaluate 0/1/4: EvaluationFailed: the judge says 500"
    ]
    for _ in range(5):
        bench.tick(100, final=True)
    assert len(bench.members) == 3
    assert bench.evaluation.members() == []
    assert bench.evaluation.settled(bench.now)
    assert bench.evaluation.status()["doing"].startswith("given up: eval-0 failed 3 times")


def test_failures_in_between_successes_are_forgiven(bench):
    for number in range(4, 28, 4):
        bench.publish(number)
        bench.until(f"evaluate 0/1/{number}")
        bench.members[-1].death = "its process died"
        bench.tick()
        bench.tick(60)
        bench.evaluated(number, 0.5)
        if number == 4:
            bench.export(4)
    assert len(bench.lines()) == 6


def test_a_damaged_version_is_passed_over_with_a_warning(bench):
    bench.publish(4)
    bench.until("evaluate 0/1/4")
    bench.answer(refused="weights/0/e1/v4/shard-00000.safetensors: expected sha256 a, found b")
    assert bench.console.said[0].startswith("warning: version 4 is not evaluated: weights/0/e1/v4/shard")
    bench.tick()
    assert bench.running() == []
    assert not bench.folder.evaluations.exists()
    bench.evaluated(8, 0.5)
    assert [line["step"] for line in bench.lines()] == [8]
    assert not bench.members[0].killed


@pytest.mark.parametrize("point", ["evaluation.written", "best.pinned"])
def test_a_driver_killed_between_line_pin_and_export_has_the_next_life_do_the_rest(bench, point):
    bench.evaluated(4, 0.4)
    bench.export(4)
    bench.dies_at = (point, 8)
    with pytest.raises(KeyboardInterrupt):
        bench.evaluated(8, 0.6)
    bench.dies_at = None
    assert bench.pinned() == {BEST: 8 if point == "best.pinned" else 4, CANDIDATE: 8}
    bench.life(newest=WeightVersion(0, 1, 8))
    bench.export(8)
    assert bench.pinned()[BEST] == 8
    assert bench.running() == []
    assert bench.evaluation.status()["best"]["step"] == 8
    assert [line["step"] for line in bench.lines()] == [4, 8], "what was evaluated is not evaluated again"


def test_a_driver_killed_while_a_version_is_evaluated_has_it_evaluated_in_the_next_life(bench):
    bench.publish(4)
    bench.until("evaluate 0/1/4")
    bench.life(newest=WeightVersion(0, 1, 4)).evaluated(4, 0.5)
    assert [(line["epoch"], line["step"]) for line in bench.lines()] == [(2, 4)]


def test_the_best_of_an_earlier_life_stays_the_one_to_beat(bench):
    bench.evaluated(4, 0.7)
    bench.export(4)
    bench.life(newest=WeightVersion(0, 1, 4)).evaluated(8, 0.65)
    assert bench.pinned()[BEST] == 4
    assert bench.evaluation.status()["best"]["step"] == 4


def test_where_the_best_is_gone_the_best_that_is_there_takes_its_place(bench):
    for number, win_rate in ((4, 0.6), (8, 0.9)):
        bench.evaluated(number, win_rate)
        bench.export(number)
    bench.store.delete(WeightVersion(0, 1, 8).manifest_key)
    bench.life(newest=WeightVersion(0, 1, 8))
    bench.export(4)
    assert bench.pinned()[BEST] == 4


def test_lines_by_other_settings_are_not_compared(bench):
    bench.evaluated(4, 0.9)
    bench.export(4)
    bench.life(config=CONFIG.model_copy(update={"seed": 1})).evaluated(8, 0.6)
    assert bench.evaluation.status()["best"]["step"] == 8
    bench.life(config=CONFIG.model_copy(update={"interval_steps": 2, "deadline_s": 5.0}))
    assert bench.evaluation.status()["best"]["step"] == 4


def test_the_last_version_is_evaluated_before_the_run_is_complete(bench):
    bench.evaluated(4, 0.5)
    bench.export(4)
    bench.publish(6)
    bench.tick()
    assert bench.running() == []
    assert not bench.evaluation.settled(bench.now)
    bench.tick(final=True)
    assert bench.running() == ["evaluate 0/1/6"]
    bench.answer(win_rate=0.6, win_rate_low=0.5, win_rate_high=0.7)
    assert not bench.evaluation.settled(bench.now), "the best one is not exported yet"
    bench.export(6)
    assert bench.evaluation.settled(bench.now)


def test_the_end_of_a_run_does_not_wait_for_ever(bench):
    bench.publish(6)
    bench.tick(final=True)
    assert not bench.evaluation.settled(bench.now)
    bench.now += SUPERVISE.starting_s + CONFIG.deadline_s + 1
    assert bench.evaluation.settled(bench.now)
    assert bench.console.said == ["warning: the last version is not evaluated: no answer within 150 s"]
    assert all(member.killed for member in bench.members)


def test_a_win_rate_that_stands_still_is_said_once_for_each_best(bench):
    bench.evaluated(4, 0.6)
    bench.export(4)
    for number in (8, 12, 16):
        bench.evaluated(number, 0.5)
    warnings = [line for line in bench.console.said if line.startswith("warning")]
    assert warnings == ["warning: win_rate has not risen for 8 steps: step 4 is still the best"]


def test_a_store_that_fails_costs_an_evaluation_and_no_run(bench, monkeypatch):
    bench.publish(4)

    def replace(key, data):
        raise OSError("the store is gone")

    monkeypatch.setattr(bench.store, "replace", replace)
    for _ in range(4):
        bench.tick()
    assert bench.running() == []
    assert bench.console.said == ["warning: version 4 is not evaluated: the store is gone"]
    monkeypatch.undo()
