"""The parts of evaluation during a run: lines of its file, the folder of the best, the worker that judges. Under a second."""

import json

import pytest
import torch
from orchestrator_folders import write_model
from transformers import AutoModelForCausalLM

from gen_cluster.engine import WeightsRefused
from orchestrator.folder import RunFolder
from orchestrator.periodic import metrics
from orchestrator.periodic.best import exported, replace_best
from orchestrator.periodic.results import Results, evaluation_lines, summary
from orchestrator.periodic.worker import EvaluationWorker
from train_cluster.model import load_policy, published_parameters
from weightstore import publish
from weightstore.blobs import FileBlobStore
from weightstore.fetch import StoreWeightSource
from weightstore.manifest import WeightVersion


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def results(folder, *, metric="win_rate", settings="s"):
    return Results(folder, metric=metric, settings=settings)


def add(found, step, **figures):
    return found.add({"step": step, "version": f"0/1/{step}", **figures})


# -- lines -----------------------------------------------------------------------------------------------------------
def test_the_best_is_the_highest_and_among_equals_the_earlier(folder):
    found = results(folder)
    assert (found.best, found.last, found.last_step, found.without_rise()) == (None, None, 0, 0)
    for step, win_rate in ((4, 0.5), (8, 0.7), (12, 0.7), (16, float("nan")), (20, None)):
        add(found, step, win_rate=win_rate, reward=step)
    again = results(folder)
    assert [line["step"] for line in again.ranked()] == [8, 12, 4]
    assert (again.best["step"], again.last["step"], again.last_step, again.without_rise()) == (8, 20, 20, 12)
    assert results(folder, metric="reward").best["step"] == 20
    assert results(folder, settings="others").last is None


def test_a_damaged_line_is_named_and_left_out(folder, caplog):
    add(results(folder), 4, win_rate=0.5)
    with folder.evaluations.open("a") as file:
        file.write('{"step": 8, "versi\n[]\n')
    assert [line["step"] for line in results(folder).ranked()] == [4]
    assert "evaluations.jsonl, line 2 is passed over" in caplog.text
    assert "evaluations.jsonl, line 3 is passed over" in caplog.text


def test_people_read_the_last_and_the_best():
    line = {"step": 8, "version": "0/1/8", "win_rate": 0.625, "win_rate_low": 0.5, "win_rate_high": 0.75}
    more = line | {"reward": 0.1234, "kl": 3.456, "length": 20.0, "distinct_3": 0.5}
    assert summary(more) == (
        "step 8  win rate 62.5% [50.0%, 75.0%]  reward 0.123  KL 3.46  length 20  distinct 3-grams 0.5"
    )
    status = {"last": line, "best": line, "metric": "win_rate", "doing": "idle"}
    assert evaluation_lines(status) == [
        "evaluation: step 8  win rate 62.5% [50.0%, 75.0%], now idle",
        "best by win_rate: step 8  win rate 62.5% [50.0%, 75.0%]",
    ]
    assert evaluation_lines({"last": None, "doing": "evaluate 0/1/4"}) == ["evaluation: none yet, now evaluate 0/1/4"]


def test_every_figure_of_a_line_reaches_prometheus():
    line = {
        "step": 8,
        "win_rate": 0.6,
        "win_rate_low": 0.5,
        "win_rate_high": 0.7,
        "reward": 1.5,
        "reward.helpful": 2.5,
        "kl": 3.0,
        "length": 20.0,
        "distinct_3": 0.4,
        "seconds": 12.0,
    }
    metrics.observe(line)
    gauges = [metrics.STEP, metrics.WIN_RATE, metrics.WIN_RATE_LOW, metrics.WIN_RATE_HIGH, metrics.REWARD]
    gauges += [metrics.COMPONENT.labels("helpful"), metrics.KL, metrics.LENGTH, metrics.DISTINCT.labels("3")]
    gauges += [metrics.SECONDS]
    assert [gauge._value.get() for gauge in gauges] == list(line.values())


# -- the folder of the best --------------------------------------------------------------------------------------------
def test_the_best_is_replaced_whole_or_not_at_all(folder):
    one, two = WeightVersion(0, 1, 4), WeightVersion(0, 2, 8)
    assert exported(folder.best) is None
    replace_best(folder.best, one, lambda out: write(out, "one"))
    kept = (folder.best / "text").open()
    assert exported(folder.best) == one

    def torn(out):
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        replace_best(folder.best, two, torn)
    assert (exported(folder.best), (folder.best / "text").read_text()) == (one, "one")
    replace_best(folder.best, two, lambda out: write(out, "two"))
    assert (exported(folder.best), (folder.best / "text").read_text()) == (two, "two")
    assert kept.read() == "one", "a reader keeps what it has opened"
    kept.close()
    assert [path.name for path in (folder.path / ".best").iterdir()] == ["0-2-8"]
    folder.path.rename(folder.path.with_name("moved"))
    assert (folder.path.with_name("moved") / "best/text").read_text() == "two"


def test_a_folder_of_somebody_elses_is_left_alone(folder):
    folder.best.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        replace_best(folder.best, WeightVersion(0, 1, 4), lambda out: write(out, "one"))
    assert list(folder.best.iterdir()) == []


def write(out, text):
    out.mkdir()
    (out / "text").write_text(text)


# -- the worker --------------------------------------------------------------------------------------------------------
class Examiner:
    """Looks at the mean of a tensor; refuses the versions that it is told to."""

    def __init__(self):
        self.prepared, self.refuses = 0, None

    def prepare(self):
        self.prepared += 1

    def examine(self, fetched):
        if str(fetched.manifest.version) == self.refuses:
            raise WeightsRefused("it has another shape")
        return {"mean": float(sum(tensor.mean() for _, tensor in fetched.tensors()))}

    def close(self):
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def store(tmp_path):
    return FileBlobStore(tmp_path / "store")


@pytest.fixture
def worker(model, store, tmp_path):
    source = StoreWeightSource(store, lineage=0, run_epoch=1, threads=1)
    points = []
    worker = EvaluationWorker(
        examiner=Examiner(),
        weights=source,
        model_path=str(model),
        best=tmp_path / "best",
        reached=lambda point, step: points.append((point, step)),
    )
    worker.points = points
    worker.setup()
    return worker


def publish_policy(store, model, number):
    policy = load_policy(model, random_init=True, seed=number)
    version = WeightVersion(0, 1, number)
    tensors = {name: parameter.detach() for name, parameter in published_parameters(policy).items()}
    publish.write_shard(store, version, 0, tensors)
    facts = {"aliases": {}, "model_hash": "m", "tokenizer_hash": "t", "deadline_s": 5.0, "cancelled": lambda: False}
    publish.commit(store, version, shards=1, step=number, **facts)
    return tensors


def test_the_worker_answers_with_figures_and_writes_an_ordinary_folder(worker, store, model, tmp_path):
    tensors = publish_policy(store, model, 4)
    mean = float(sum(tensor.mean() for tensor in tensors.values()))
    assert worker.evaluate("0/1/4") == {"mean": mean}
    assert worker.points == [("evaluation.fetched", 4)]
    for key in store.list("weights"):
        store.delete(key)  # retention: what was fetched is exported all the same
    assert worker.export("0/1/4") == {"out": str(tmp_path / "best")}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "best").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert json.loads((tmp_path / "best/config.json").read_text())["vocab_size"] == 31
    assert worker.status() == {"doing": "idle"}


def test_what_is_gone_damaged_or_unfit_is_refused_and_the_worker_lives_on(worker, store, model):
    assert "no weights under version 0/1/4" in worker.evaluate("0/1/4")["refused"]
    assert "no weights under version 0/1/4" in worker.export("0/1/4")["refused"]
    for number in (4, 8, 12):
        publish_policy(store, model, number)
    store.delete(WeightVersion(0, 1, 4).shard_key(0))
    assert "found no such blob" in worker.evaluate("0/1/4")["refused"]
    worker._examiner.refuses = "0/1/8"
    assert worker.evaluate("0/1/8") == {"refused": "it has another shape"}
    assert "mean" in worker.evaluate("0/1/12")
    assert worker._examiner.prepared == 1
