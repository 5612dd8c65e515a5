"""What the parts measure stands in the run's folder, step by step. A second beside the imports."""

import json
from dataclasses import asdict, fields
from types import SimpleNamespace

import pytest
from orchestrator_recipes import a_recipe

from orchestrator.folder import RunFolder
from orchestrator.report import Reporter
from orchestrator.targets import Targets
from train_cluster.report import CriticReport, StepReport


class Lines:
    """A console."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)

    def stepped(self, report, *, steps):
        pass

    def waiting(self, status):
        pass


class Trainer:
    """As the reporter sees it."""

    started, finished = True, False
    step = reached = committed = published = saved = 3
    written_bytes = restarts = 0
    ranks = ()

    def doing(self):
        return "idle"


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "r")
    folder.create()
    folder.write_json(folder.status, {})
    return folder


def a_report(step):
    """With a critic, an ensemble's disagreement and all phases."""
    numbers = {field.name: 0.5 for field in fields(StepReport)}
    critic = CriticReport(**{field.name: 0.25 for field in fields(CriticReport)})
    own = {"reward_components": {"helpful": 1.5}, "reward_measures": {"helpful.disagreement": 0.125}, "seconds": {}}
    return StepReport(**numbers | own | {"step": step, "critic": critic})


def tick(reporter, now, *statuses):
    workers = [SimpleNamespace(name=f"score-{i}", status=status) for i, status in enumerate(statuses)]
    depths = dict.fromkeys(("prompts", "completions", "experience", "quarantine"), 0)
    snapshot = SimpleNamespace(live=0, depths=depths, committed=3)
    supervisor = SimpleNamespace(members=lambda: workers, restarts=0)
    reporter.tick(now, snapshot, Trainer(), supervisor, data={})


def test_a_steps_line_has_all_of_its_report_and_the_noise_floor(run):
    console = Lines()
    reporter = Reporter(run, a_recipe(), epoch=2, console=console, targets=Targets(run, driver="127.0.0.1:1"))
    reporter.stepped(asdict(a_report(1)))
    tick(reporter, 1.0, {"kl_noise_floor": 0.25}, {"kl_noise_floor": 0.5}, {})
    reporter.stepped(asdict(a_report(2)))
    tick(reporter, 3.0, {}, {}, {})  # a scorer that was started anew meets no sample of version 0
    reporter.stepped(asdict(a_report(3)))
    first, second, third = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [first.get("kl_noise_floor"), second["kl_noise_floor"], third["kl_noise_floor"]] == [None, 0.5, 0.5]
    for line, step in ((first, 1), (second, 2)):
        assert {key: line[key] for key in asdict(a_report(step))} == asdict(a_report(step))
        assert line["epoch"] == 2
    assert second["critic"]["explained_variance"] == 0.25
    assert second["reward_measures"] == {"helpful.disagreement": 0.125}


def test_a_warning_of_a_worker_is_said_once(run):
    console = Lines()
    reporter = Reporter(run, a_recipe(), epoch=1, console=console, targets=Targets(run, driver="127.0.0.1:1"))
    for now, nats in ((1.0, 2), (3.0, 3)):
        line = f"training.kl.target_nats = 0.5: equal weights already measure {nats} nats a response"
        tick(reporter, now, {"warning": line}, {"warning": line.replace(str(nats), "4")})
    assert console.said == ["warning: training.kl.target_nats = 0.5: equal weights already measure 2 nats a response"]
