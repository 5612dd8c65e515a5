"""Checkpoints without ranks: which cut is the newest whole one, what pruning leaves, what loads on which world size."""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train_cluster.background import Cancelled
from train_cluster.checkpoint import Cut, check_new_beginning, cut_folder, cuts, is_whole, prune, read_cut
from train_cluster.engine import TensorSpec
from train_cluster.snapshot import Writer, agree_on_cut, load, snapshot
from weightstore.blobs import FileBlobStore

SHAPES = {"embed": (7, 3), "norm": (5,), "scale": (1,)}


class SlicedEngine:
    """The state of a TrainEngine at any world size, without a model: each tensor cut as the protocol says."""

    def __init__(self, rank: int, world_size: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> None:
        self.rank, self.world_size = rank, world_size
        self._shapes = shapes
        self.tensors: dict[str, torch.Tensor] = {}

    @staticmethod
    def filled(rank: int, world_size: int, *, seed: int) -> "SlicedEngine":
        engine = SlicedEngine(rank, world_size)
        generator = torch.Generator().manual_seed(seed)
        for name, shape in SHAPES.items():
            for label in (name, f"{name}.exp_avg", f"{name}.exp_avg_sq"):
                engine.tensors[label] = engine._cut(torch.randn(shape, generator=generator))
            engine.tensors[f"{name}.step"] = torch.tensor(float(seed))
        return engine

    def specs(self) -> dict[str, TensorSpec]:
        return {name: TensorSpec(shape=shape, dtype=torch.float32) for name, shape in self._shapes.items()}

    def export_partition(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.tensors.items()}

    def import_partition(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values.double()

    def _cut(self, whole: torch.Tensor) -> torch.Tensor:
        count = -(-whole.numel() // self.world_size)
        padded = torch.zeros(count * self.world_size)
        padded[: whole.numel()] = whole.flatten()
        return padded[self.rank * count : (self.rank + 1) * count].clone()


def write(store: FileBlobStore, step: int, *, epoch: int = 1, world_size: int = 1, seed: int = 0) -> Cut:
    """A cut whose tensors are those of `seed`, by one writer a rank, the last rank first."""
    for rank in reversed(range(world_size)):
        writer = a_writer(store, epoch=epoch, rank=rank, world_size=world_size)
        writer.start(a_snapshot(SlicedEngine.filled(rank, world_size, seed=seed), step))
        writer.wait(step, timeout_s=10)
        writer.close()
    return read_cut(store, 0, step, epoch)


def a_writer(store: Any, *, epoch: int = 1, rank: int = 0, world_size: int = 1, deadline_s: float = 10.0) -> Writer:
    return Writer(
        store, lineage=0, epoch=epoch, rank=rank, world_size=world_size, config_hash="c", deadline_s=deadline_s
    )


def a_snapshot(engine: Any, step: int) -> Any:
    state = {"learner": {"version": 1, "kl": {"coefficient": 0.1 + 0.2}}}
    return snapshot({"policy": engine}, step=step, state=state, newest_version=step - 1, cursors={"words": 64})


@pytest.fixture
def store(tmp_path: Path) -> FileBlobStore:
    return FileBlobStore(tmp_path / "run")


@settings(max_examples=25, deadline=None)
@given(old=st.integers(1, 9), new=st.integers(1, 9))
def test_any_world_size_loads_any_cut_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, old: int, new: int) -> None:
    store = FileBlobStore(tmp_path_factory.mktemp("run"))
    cut = write(store, 3, world_size=old, seed=11)
    for rank in range(new):
        loaded = SlicedEngine(rank, new)
        load(store, cut, {"policy": loaded})  # type: ignore[dict-item]
        expected = SlicedEngine.filled(rank, new, seed=11).tensors
        assert loaded.tensors.keys() == expected.keys()
        assert all(torch.equal(loaded.tensors[name], expected[name]) for name in expected)


def test_a_cut_keeps_what_it_was_given(store: FileBlobStore) -> None:
    cut = write(store, 4, epoch=2, world_size=3)
    assert (cut.step, cut.epoch, cut.world_size, cut.newest_version) == (4, 2, 3, 3)
    assert cut.state["learner"]["kl"]["coefficient"] == 0.1 + 0.2  # a float goes through JSON unchanged
    assert cut.cursors == {"words": 64}
    assert cut.models == {"policy": SHAPES}
    assert store.list("checkpoints") == [
        *(f"checkpoints/0/00000004-e2/{name}" for name in ("manifest.json", "rank-0.json", "rank-0.safetensors")),
        *(f"checkpoints/0/00000004-e2/rank-{rank}.{kind}" for rank in (1, 2) for kind in ("json", "safetensors")),
    ]


def test_the_newest_is_by_step_then_by_epoch(store: FileBlobStore) -> None:
    for step, epoch in ((3, 1), (2, 3), (3, 2)):
        write(store, step, epoch=epoch)
    assert [(cut.step, cut.epoch) for cut in cuts(store, 0)] == [(3, 2), (3, 1), (2, 3)]
    assert cuts(store, 1) == []


def flip(store: FileBlobStore, key: str) -> None:
    path = store.root / key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def delete_blob(store: FileBlobStore, key: str) -> None:
    store.delete(key)


@pytest.mark.parametrize("damage", [flip, delete_blob])
@pytest.mark.parametrize("name", ["rank-1.safetensors", "manifest.json"])
def test_a_damaged_newest_cut_is_named_and_passed_over(
    store: FileBlobStore,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[FileBlobStore, str], None],
    name: str,
) -> None:
    older = write(store, 1, world_size=2)
    newer = write(store, 2, world_size=2)
    damage(store, f"{newer.folder}/{name}")
    with caplog.at_level(logging.WARNING):
        assert agree_on_cut(store, 0, SlicedEngine(0, 1)) == older  # type: ignore[arg-type]
    if (damage, name) != (delete_blob, "manifest.json"):  # a cut without a manifest was never committed
        assert f"{newer.folder}/{name}" in caplog.text
    assert agree_on_cut(store, 0, SlicedEngine(0, 1), step=2) is None  # type: ignore[arg-type]


def test_a_damaged_file_does_not_load(store: FileBlobStore) -> None:
    cut = write(store, 1, world_size=2)
    flip(store, cut.blob_key(1))
    assert is_whole(store, cut, ranks=[0])
    load(store, cut, {"policy": SlicedEngine(0, 2)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="damaged"):
        load(store, cut, {"policy": SlicedEngine(1, 2)})  # type: ignore[dict-item]


def test_another_model_is_refused_by_name(store: FileBlobStore) -> None:
    cut = write(store, 1)
    with pytest.raises(ValueError, match=r"another policy: embed"):
        load(store, cut, {"policy": SlicedEngine(0, 1, SHAPES | {"embed": (7, 4)})})  # type: ignore[dict-item]


def test_two_models_travel_in_one_cut_and_neither_is_left_out(store: FileBlobStore) -> None:
    for rank in (1, 0):
        writer = a_writer(store, rank=rank, world_size=2)
        two: Any = {"policy": SlicedEngine.filled(rank, 2, seed=1), "critic": SlicedEngine.filled(rank, 2, seed=2)}
        writer.start(snapshot(two, step=1, state={}, newest_version=0, cursors={}))
        writer.wait(1, timeout_s=10)
        writer.close()
    cut = read_cut(store, 0, 1, 1)
    assert cut.models == {"policy": SHAPES, "critic": SHAPES}
    loaded: Any = {"policy": SlicedEngine(0, 1), "critic": SlicedEngine(0, 1)}
    load(store, cut, loaded)
    for name, seed in (("policy", 1), ("critic", 2)):
        expected = SlicedEngine.filled(0, 1, seed=seed).tensors
        assert all(torch.equal(loaded[name].tensors[key], expected[key]) for key in expected)
    with pytest.raises(ValueError, match="is a checkpoint of critic and policy, and this run trains policy"):
        load(store, cut, {"policy": SlicedEngine(0, 1)})  # type: ignore[dict-item]


def test_pruning_keeps_the_newest_and_pins_and_never_a_manifest_without_its_files(store: FileBlobStore) -> None:
    for step in range(6):
        write(store, step, epoch=1 + (step > 2))
    torn = cut_folder(0, 9, 1)
    store.put_if_absent(f"{torn}/rank-0.json", b"a dead epoch's")
    in_work = cut_folder(0, 9, 2)
    store.put_if_absent(f"{in_work}/rank-0.json", b"the living epoch's")

    order: list[str] = []
    delete = store.delete
    store.delete = lambda key: (order.append(key), delete(key))[1]  # type: ignore[method-assign]
    assert prune(store, 0, keep=2, pinned=[1]) == [0, 2, 3]
    assert [cut.step for cut in cuts(store, 0)] == [5, 4, 1]
    assert all(is_whole(store, cut) for cut in cuts(store, 0))
    assert store.list(torn) == []
    assert store.list(in_work) == [f"{in_work}/rank-0.json"]
    for folder in {key.rpartition("/")[0] for key in order}:
        assert next(key for key in order if key.startswith(folder)).endswith("manifest.json")


def test_a_cut_with_an_unreadable_manifest_takes_no_place_of_a_whole_one(store: FileBlobStore) -> None:
    written = [write(store, step) for step in range(6)]
    for step in (1, 4):
        flip(store, written[step].manifest_key)
    assert prune(store, 0, keep=2) == [0, 1, 2]
    assert [cut.step for cut in cuts(store, 0)] == [5, 3]
    assert store.exists(written[4].manifest_key), "newer than a kept one: left to be looked at"
    write(store, 6)
    write(store, 7)
    assert prune(store, 0, keep=2) == [3, 4, 5]


def test_nothing_is_pruned_while_too_few_cuts_can_be_read(store: FileBlobStore) -> None:
    written = [write(store, step) for step in range(3)]
    for step in (0, 1):
        flip(store, written[step].manifest_key)
    assert prune(store, 0, keep=2) == []
    flip(store, written[2].manifest_key)
    assert prune(store, 0, keep=1) == []


def test_a_run_begins_anew_only_where_its_ledger_reaches_back(store: FileBlobStore) -> None:
    for batches in ([], [1], [1, 2, 3]):
        check_new_beginning(store, 0, batches=batches)
    with pytest.raises(ValueError, match=r"\(damaged: none is there\) and the ledger begins with batch 2,"):
        check_new_beginning(store, 0, batches=[2, 3])
    write(store, 4)
    write(store, 5, epoch=2)
    with pytest.raises(ValueError, match="damaged: checkpoints/0/00000005-e2, checkpoints/0/00000004-e1") as caught:
        check_new_beginning(store, 0, batches=[2, 3])
    assert "restore a checkpoint's folder from a copy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_rank_is_named_and_surfaces_at_the_next_call(store: FileBlobStore) -> None:
    writer = a_writer(store, world_size=2, deadline_s=0.1)
    writer.start(a_snapshot(SlicedEngine.filled(0, 2, seed=0), 1))
    with pytest.raises(TimeoutError, match=r"rank-1\.json"):
        writer.wait(1, timeout_s=10)
    with pytest.raises(TimeoutError, match=r"rank-1\.json"):
        writer.check()
    with pytest.raises(TimeoutError, match=r"rank-1\.json"):
        writer.start(a_snapshot(SlicedEngine.filled(0, 2, seed=0), 2))
    assert cuts(store, 0) == []


def test_closing_gives_up_a_cut_that_waits(store: FileBlobStore) -> None:
    writer = a_writer(store, world_size=2, deadline_s=60)
    writer.start(a_snapshot(SlicedEngine.filled(0, 2, seed=0), 1))
    closing = threading.Timer(0.1, writer.close)
    closing.start()
    with pytest.raises(Cancelled):
        writer.wait(1, timeout_s=10)


def test_an_epoch_writes_a_step_once(store: FileBlobStore) -> None:
    write(store, 1, seed=1)
    writer = a_writer(store)
    writer.start(a_snapshot(SlicedEngine.filled(0, 1, seed=2), 1))
    with pytest.raises(ValueError, match="new epoch"):
        writer.wait(1, timeout_s=10)
    assert is_whole(store, read_cut(store, 0, 1, 1))


def test_training_on_does_not_change_a_snapshot(store: FileBlobStore) -> None:
    engine = SlicedEngine.filled(0, 1, seed=4)
    writer = a_writer(store)
    taken = a_snapshot(engine, 1)
    for tensor in engine.tensors.values():
        tensor.add_(1)
    writer.start(taken)
    writer.wait(1, timeout_s=10)
    loaded = SlicedEngine(0, 1)
    load(store, read_cut(store, 0, 1, 1), {"policy": loaded})  # type: ignore[dict-item]
    assert torch.equal(loaded.tensors["embed"], SlicedEngine.filled(0, 1, seed=4).tensors["embed"])
