"""ZeRO-3 in real rank processes, policy and critic by PPO: the same results as one plain process, and state that leaves and returns bit for bit.

Starting ranks is what costs, so each world size is started once and makes all its observations; the tests read them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import run_ranks
from safetensors.torch import load_file, save_file
from train_records import a_record, random_group, save_tiny_model

from train_cluster import distributed
from train_cluster.checkpoint import Cut, read_cut
from train_cluster.config import CriticConfig, KlConfig, OptimizerConfig, PpoConfig, TrainingConfig
from train_cluster.engine import TrainEngine
from train_cluster.learner import Learner
from train_cluster.model import PackedModel, load_policy, published_parameters, tied_aliases
from train_cluster.plain import PlainEngine
from train_cluster.publication import Publisher, weights_digest
from train_cluster.scalar import load_scalar
from train_cluster.snapshot import Writer, load, snapshot
from train_cluster.zero import ZeroEngine
from weightstore.blobs import FileBlobStore
from weightstore.fetch import read_manifest
from weightstore.manifest import WeightVersion

# Clipping bites, rows are short, and an update has one sequence more than ranks can share: some rows are empty.
CONFIG = TrainingConfig(
    algorithm=PpoConfig(critic=CriticConfig(warmup_steps=0, learning_rate=3e-3), entropy_coefficient=0.01),
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
        pair = self.pair()
        learner = learner_on(pair)
        self.found["reports"] = [_numbers(learner, number) for number in (1, 2, 3)]
        tensors = _gathered(pair)
        if self.rank == 0:
            save_file(tensors, self.folder / f"trained-{self.world_size}.safetensors")
        assert self.rank == 0 or not any(tensor is not None for tensor in tensors.values())

    def go_on_from_a_cut(self) -> None:
        """Train 1, cut, train 2, 3; and 2, 3 again from the cut, on engines that gather other parameters and were cut one by one."""
        pair = self.pair(dropout=DROPOUT)
        learner = learner_on(pair)
        learner.step(RECORDS[0])
        self.cut(pair, epoch=self.world_size, step=1, learner=learner)
        self.found["digests at the cut"] = _digests(pair)
        self.found["went on"] = [_numbers(learner, number) for number in (2, 3)]
        self.found["digests after"] = _digests(pair)

        again = self.pair(dropout=DROPOUT, seed=99, persist_below=10**6, cut_first=True)
        learner = learner_on(again)
        cut = read_cut(self.store, 0, 1, self.world_size)
        load(self.store, cut, again)
        learner.load_state(dict(cut.state["learner"]))
        self.found["went on again"] = [_numbers(learner, number) for number in (2, 3)]
        self.found["digests again"] = _digests(again)
        self.publish(again["policy"])

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
        pair = self.pair(dtype="bfloat16")
        engine = pair["policy"]
        masters = published_parameters(load_policy(self.folder / "model", random_init=True, seed=1))
        pieces = engine.export_partition()
        exact = []
        for name, master in masters.items():
            count = pieces[name].numel()
            mine = master.detach().flatten()[self.rank * count : (self.rank + 1) * count]
            exact.append(torch.equal(pieces[name][: mine.numel()], mine) and not pieces[name][mine.numel() :].any())
        self.found["bfloat16 masters exact"] = all(exact)
        learner_on(pair).step(RECORDS[0])
        digests = _digests(pair)
        fresh = self.pair(dtype="bfloat16", seed=5, cut_first=True)
        for name, engine in pair.items():
            fresh[name].import_partition(engine.export_partition())
        self.found["bfloat16 returns"] = digests == _digests(fresh)
        self.found["bfloat16 gathers"] = str({spec.dtype for one in fresh.values() for spec in one.specs().values()})

    def load_all_cuts(self) -> None:
        """Load what every world size so far has cut, and cut it anew as epoch 10 · old + new."""
        for epoch in range(1, self.world_size + 1):
            pair = self.pair(seed=7)
            load(self.store, read_cut(self.store, 0, 1, epoch), pair)
            self.found[f"digests of cut {epoch}"] = _digests(pair)
            self.cut(pair, epoch=10 * epoch + self.world_size, step=1, learner=learner_on(pair))

    def pair(
        self,
        *,
        dropout: float = 0.0,
        seed: int = 1,
        persist_below: int = 0,
        dtype: Any = "float32",
        cut_first: bool = False,
    ) -> dict[str, TrainEngine]:
        """Policy and critic."""
        config = CONFIG.model_copy(update={"dtype": dtype})
        return {
            name: ZeroEngine(
                module,
                config=config,
                rank=self.rank,
                world_size=self.world_size,
                persist_below=persist_below,
                cut_first=cut_first,
            )
            for name, module in modules(self.folder, seed=seed, dropout=dropout).items()
        }

    def cut(self, pair: Mapping[str, TrainEngine], *, epoch: int, step: int, learner: Learner) -> None:
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
        writer.start(snapshot(pair, step=step, state=state, newest_version=step, cursors={"words": 5}))
        writer.wait(step, timeout_s=30)
        pair["policy"].sum(torch.zeros(1))  # rank 0 has committed once all are past this
        writer.close()


def modules(folder: Path, *, seed: int, dropout: float = 0.0) -> dict[str, PackedModel]:
    drawn: Any = {"random_init": True, "seed": seed, "attention_dropout": dropout}
    return {
        "policy": load_policy(folder / "model", **drawn),
        "critic": load_scalar(folder / "model", head="fresh", **drawn),
    }


def plain_pair(folder: Path, *, seed: int) -> dict[str, TrainEngine]:
    found = modules(folder, seed=seed)
    return {name: PlainEngine(module, optimizer=CONFIG.optimizer) for name, module in found.items()}


def learner_on(pair: Mapping[str, TrainEngine]) -> Learner:
    return Learner(pair["policy"], config=CONFIG, critic=pair["critic"])


def _digests(pair: Mapping[str, TrainEngine]) -> dict[str, str]:
    return {name: weights_digest(engine) for name, engine in pair.items()}


def _gathered(pair: Mapping[str, TrainEngine]) -> dict[str, Any]:
    """On rank 0; None elsewhere."""
    return {f"{m}/{name}": engine.gather(name, owner=0) for m, engine in pair.items() for name in engine.specs()}


def _numbers(learner: Learner, number: int) -> dict[str, float]:
    report = learner.step(RECORDS[number - 1])
    assert report.critic is not None
    return {
        "loss": report.loss,
        "norm": report.grad_norm,
        "kl": report.kl_per_response,
        "beta": report.kl_coefficient,
        "critic's loss": report.critic.loss,
        "critic's norm": report.critic.grad_norm,
        "explained": report.critic.explained_variance,
    }


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
    pair = plain_pair(folder, seed=1)
    learner = learner_on(pair)
    reports = [_numbers(learner, number) for number in (1, 2, 3)]
    return reports, _gathered(pair)


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
    assert found["digests again"] == found["digests after"]
    assert not set(found["digests after"].items()) & set(found["digests at the cut"].items())
    betas = [report["beta"] for report in found["went on"]]
    assert len({*betas, CONFIG.kl.coefficient}) > 1, "the adaptive coefficient never moved: it proves nothing"


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 2), (2, 2)])
def test_a_cut_loads_on_real_ranks_and_leaves_them_as_it_came(folder: Path, old: int, new: int) -> None:
    assert _found(folder, new)[f"digests of cut {old}"] == _found(folder, old)["digests at the cut"]
    store = FileBlobStore(folder / "store")
    original, again = (_load_whole(folder, read_cut(store, 0, 1, epoch)) for epoch in (old, 10 * old + new))
    assert set(again) == set(original)
    assert all(torch.equal(again[name], original[name]) for name in original)
    assert any(original[name].any() for name in original if name.endswith("exp_avg_sq"))
    assert {float(original[name]) for name in original if name.endswith(".step")} == {4.0}  # 2 epochs · 2 mini-batches


def test_a_plain_process_goes_on_from_a_cut_of_two_ranks(folder: Path) -> None:
    store = FileBlobStore(folder / "store")
    pair = plain_pair(folder, seed=3)
    load(store, read_cut(store, 0, 1, 2), pair)
    assert _digests(pair) == _found(folder, 2)["digests at the cut"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_publication_has_the_digest_of_the_weights(folder: Path, world_size: int) -> None:
    found = _found(folder, world_size)
    manifest = read_manifest(FileBlobStore(folder / "store"), WeightVersion(0, world_size, 3))
    assert manifest.digest() == found["published"]["digest"] == found["digests again"]["policy"]
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
    pair = plain_pair(folder, seed=2)
    load(FileBlobStore(folder / "store"), cut, pair)
    return {f"{m}/{name}": tensor for m, engine in pair.items() for name, tensor in engine.export_partition().items()}
