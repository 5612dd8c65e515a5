"""ZeRO-3 in real rank processes: the same results as one plain process, and state that leaves and returns bit for bit.

Starting ranks is what costs, so each world size is started once and makes all its observations; the tests read them.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import run_ranks
from safetensors.torch import load_file, save_file
from train_records import a_record, random_group, save_tiny_model

from train_cluster import distributed
from train_cluster.checkpoint import Cut, read_cut
from train_cluster.config import KlConfig, OptimizerConfig, TrainingConfig
from train_cluster.engine import TrainEngine
from train_cluster.learner import Learner
from train_cluster.model import load_policy, published_parameters, tied_aliases
from train_cluster.plain import PlainEngine
from train_cluster.publication import Publisher, weights_digest
from train_cluster.snapshot import Writer, load, snapshot
from train_cluster.zero import ZeroEngine
from weightstore.blobs import FileBlobStore
from weightstore.fetch import read_manifest
from weightstore.manifest import WeightVersion

# Clipping bites, rows are short, and an update has one sequence more than ranks can share: some rows are empty.
CONFIG = TrainingConfig(
    dtype="float32",
    epochs=2,
    mini_batches=2,
    micro_batch_tokens=24,
    kl=KlConfig(adaptive=True, coefficient=0.05, target_nats=0.01),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=0, weight_decay=0.1, gradient_clip=0.05),
)
DROPOUT = 0.1
RECORDS = [
    a_record(number, [random_group(10 * number + i, size=size) for i, size in enumerate((3, 2))])
    for number in (1, 2, 3)
]


def session(rank: int, world_size: int, port: int, folder: Path) -> None:
    """One start of `world_size` ranks."""
    torch.set_num_threads(1)
    distributed.join(rank=rank, world_size=world_size, master_port=port, timeout_s=30)
    session = _Session(rank, world_size, folder)
    session.train_without_dropout()
    session.go_on_from_a_cut()
    session.round_to_bfloat16()
    session.load_all_cuts()
    if rank == 0:
        (folder / f"found-{world_size}.json").write_text(json.dumps(session.found))
    distributed.leave()


class _Session:
    def __init__(self, rank: int, world_size: int, folder: Path) -> None:
        self.rank, self.world_size, self.folder = rank, world_size, folder
        self.store = FileBlobStore(folder / "store")
        self.found: dict[str, Any] = {}

    def train_without_dropout(self) -> None:
        engine = self.engine()
        learner = Learner(engine, config=CONFIG)
        self.found["reports"] = [_numbers(learner, number) for number in (1, 2, 3)]
        tensors = {name: engine.gather(name, owner=0) for name in engine.specs()}
        if self.rank == 0:
            save_file(tensors, self.folder / f"trained-{self.world_size}.safetensors")
        assert self.rank == 0 or not any(tensor is not None for tensor in tensors.values())

    def go_on_from_a_cut(self) -> None:
        """Train 1, cut, train 2, 3; and 2, 3 again from the cut, on an engine that gathers other parameters."""
        engine = self.engine(dropout=DROPOUT)
        learner = Learner(engine, config=CONFIG)
        learner.step(RECORDS[0])
        self.cut(engine, epoch=self.world_size, step=1, learner=learner)
        self.found["digest at the cut"] = weights_digest(engine)
        self.found["went on"] = [_numbers(learner, number) for number in (2, 3)]
        self.found["digest after"] = weights_digest(engine)

        again = self.engine(dropout=DROPOUT, seed=99, persist_below=10**6)
        learner = Learner(again, config=CONFIG)
        cut = read_cut(self.store, 0, 1, self.world_size)
        load(self.store, cut, {"policy": again})
        learner.load_state(dict(cut.state["learner"]))
        self.found["went on again"] = [_numbers(learner, number) for number in (2, 3)]
        self.found["digest again"] = weights_digest(again)
        self.publish(again)

    def publish(self, engine: TrainEngine) -> None:
        publisher = Publisher(
            engine,
            self.store,
            lineage=0,
            epoch=self.world_size,
            model_path=self.folder / "model",
            aliases=tied_aliases(engine.module),
            shard_bytes=3000,
            deadline_s=20,
        )
        publisher.publish(3)
        self.found["published"] = publisher.wait(3, timeout_s=30)
        publisher.close()

    def round_to_bfloat16(self) -> None:
        engine = self.engine(dtype="bfloat16")
        masters = published_parameters(load_policy(self.folder / "model", random_init=True, seed=1))
        pieces = engine.export_partition()
        exact = []
        for name, master in masters.items():
            count = pieces[name].numel()
            mine = master.detach().flatten()[self.rank * count : (self.rank + 1) * count]
            exact.append(torch.equal(pieces[name][: mine.numel()], mine) and not pieces[name][mine.numel() :].any())
        self.found["bfloat16 masters exact"] = all(exact)
        Learner(engine, config=CONFIG).step(RECORDS[0])
        saved = engine.export_partition()
        digest = weights_digest(engine)
        fresh = self.engine(dtype="bfloat16", seed=5)
        fresh.import_partition(saved)
        self.found["bfloat16 returns"] = digest == weights_digest(fresh)
        self.found["bfloat16 gathers"] = str({spec.dtype for spec in fresh.specs().values()})

    def load_all_cuts(self) -> None:
        """Load what every world size so far has cut, and cut it anew as epoch 10 · old + new."""
        for epoch in range(1, self.world_size + 1):
            engine = self.engine(seed=7)
            load(self.store, read_cut(self.store, 0, 1, epoch), {"policy": engine})
            self.found[f"digest of cut {epoch}"] = weights_digest(engine)
            self.cut(engine, epoch=10 * epoch + self.world_size, step=1, learner=Learner(engine, config=CONFIG))

    def engine(
        self, *, dropout: float = 0.0, seed: int = 1, persist_below: int = 0, dtype: Any = "float32"
    ) -> ZeroEngine:
        module = load_policy(self.folder / "model", random_init=True, seed=seed, attention_dropout=dropout)
        config = CONFIG.model_copy(update={"dtype": dtype})
        return ZeroEngine(
            module, config=config, rank=self.rank, world_size=self.world_size, persist_below=persist_below
        )

    def cut(self, engine: TrainEngine, *, epoch: int, step: int, learner: Learner) -> None:
        writer = Writer(
            self.store,
            lineage=0,
            epoch=epoch,
            rank=self.rank,
            world_size=self.world_size,
            config_hash="c",
            deadline_s=20,
        )
        state = {"learner": learner.state()}
        writer.start(snapshot({"policy": engine}, step=step, state=state, newest_version=step, cursors={"words": 5}))
        writer.wait(step, timeout_s=30)
        engine.sum(torch.zeros(1))  # rank 0 has committed once all are past this
        writer.close()


def _numbers(learner: Learner, number: int) -> dict[str, float]:
    report = learner.step(RECORDS[number - 1])
    return {"loss": report.loss, "norm": report.grad_norm, "kl": report.kl_per_response, "beta": report.kl_coefficient}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    save_tiny_model(folder / "model")
    for world_size in (1, 2):
        run_ranks(session, world_size, folder)
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What one plain process makes of the same records."""
    engine = PlainEngine(load_policy(folder / "model", random_init=True, seed=1), optimizer=CONFIG.optimizer)
    learner = Learner(engine, config=CONFIG)
    reports = [_numbers(learner, number) for number in (1, 2, 3)]
    return reports, {name: engine.gather(name, owner=0) for name in engine.specs()}


@pytest.mark.parametrize("world_size", [1, 2])
def test_several_updates_equal_one_plain_process(folder: Path, plain: Any, world_size: int) -> None:
    reports, expected = plain
    for found, report in zip(_found(folder, world_size)["reports"], reports, strict=True):
        assert found == pytest.approx(report, rel=2e-4, abs=1e-6)
    trained = load_file(folder / f"trained-{world_size}.safetensors")
    assert list(trained) == sorted(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=2e-6, msg=name)
    assert reports[0]["norm"] > CONFIG.optimizer.gradient_clip


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_goes_on_from_a_cut_bit_for_bit(folder: Path, world_size: int) -> None:
    found = _found(folder, world_size)
    assert found["went on again"] == found["went on"]
    assert found["digest again"] == found["digest after"]
    assert found["digest after"] != found["digest at the cut"]
    betas = [report["beta"] for report in found["went on"]]
    assert len({*betas, CONFIG.kl.coefficient}) > 1, "the adaptive coefficient never moved: it proves nothing"


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 2), (2, 2)])
def test_a_cut_loads_on_real_ranks_and_leaves_them_as_it_came(folder: Path, old: int, new: int) -> None:
    assert _found(folder, new)[f"digest of cut {old}"] == _found(folder, old)["digest at the cut"]
    store = FileBlobStore(folder / "store")
    original, again = (_load_whole(folder, read_cut(store, 0, 1, epoch)) for epoch in (old, 10 * old + new))
    assert set(again) == set(original)
    assert all(torch.equal(again[name], original[name]) for name in original)
    assert any(original[name].any() for name in original if name.endswith("exp_avg_sq"))
    assert {float(original[name]) for name in original if name.endswith(".step")} == {4.0}  # 2 epochs · 2 mini-batches


def test_a_plain_process_goes_on_from_a_cut_of_two_ranks(folder: Path) -> None:
    store = FileBlobStore(folder / "store")
    engine = PlainEngine(load_policy(folder / "model", random_init=True, seed=3), optimizer=CONFIG.optimizer)
    load(store, read_cut(store, 0, 1, 2), {"policy": engine})
    assert weights_digest(engine) == _found(folder, 2)["digest at the cut"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_publication_has_the_digest_of_the_weights(folder: Path, world_size: int) -> None:
    found = _found(folder, world_size)
    manifest = read_manifest(FileBlobStore(folder / "store"), WeightVersion(0, world_size, 3))
    assert manifest.digest() == found["published"]["digest"] == found["digest again"]
    assert manifest.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert len(manifest.blobs) > 2


def test_blobs_do_not_depend_on_the_world_size(folder: Path) -> None:
    one, two = (
        read_manifest(FileBlobStore(folder / "store"), WeightVersion(0, world_size, 3)) for world_size in (1, 2)
    )
    assert [(blob.name, blob.size) for blob in one.blobs] == [(blob.name, blob.size) for blob in two.blobs]


@pytest.mark.parametrize("world_size", [1, 2])
def test_bfloat16_keeps_exact_masters(folder: Path, world_size: int) -> None:
    found = _found(folder, world_size)
    assert found["bfloat16 masters exact"]
    assert found["bfloat16 returns"]
    assert found["bfloat16 gathers"] == "{torch.bfloat16}"


def _found(folder: Path, world_size: int) -> dict[str, Any]:
    return json.loads((folder / f"found-{world_size}.json").read_text())


def _load_whole(folder: Path, cut: Cut) -> dict[str, torch.Tensor]:
    """The masters and moments of a cut, whole."""
    engine = PlainEngine(load_policy(folder / "model", random_init=True, seed=2), optimizer=CONFIG.optimizer)
    load(FileBlobStore(folder / "store"), cut, {"policy": engine})
    return engine.export_partition()
