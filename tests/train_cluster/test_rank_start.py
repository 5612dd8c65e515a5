"""How ranks start: far apart without being taken for dead, and from cut 0 only where that loses nothing."""

import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks
from train_records import CONTROLS, a_record, random_group, save_tiny_model

from experience.config import PacingConfig
from experience.ledger import Ledger
from experience.schema import BatchRecord
from train_cluster import distributed
from train_cluster.checkpoint import Cut, commit
from train_cluster.config import TrainingConfig
from train_cluster.snapshot import agree_on_cut, load
from train_cluster.worker import TrainerRank
from weightstore.blobs import BlobStore, FileBlobStore
from weightstore.config import StoreConfig
from weightstore.shards import write_safetensors

TIMEOUT_S = 3.0
LATE_S = 5.0


class Group:
    """Of a TrainEngine only what agreeing on a cut and loading it need."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(values)
        return values

    def specs(self) -> dict[str, object]:
        return {}

    def import_partition(self, tensors: dict[str, torch.Tensor]) -> None:
        """As DeepSpeed gathers small parameters."""
        self.sum(torch.ones(1))


class AllCame(RuntimeError):
    """The step's collective has ended."""


class Step:
    """Of a Learner only that it meets the other ranks in a collective."""

    def step(self, record: BatchRecord) -> None:
        torch.distributed.all_reduce(torch.ones(1))
        raise AllCame


class SlowStore(FileBlobStore):
    def local_file(self, key: str) -> AbstractContextManager[Path]:
        time.sleep(LATE_S)
        return super().local_file(key)

    def get(self, key: str) -> bytes:
        if key.endswith(".batch"):
            time.sleep(LATE_S)
        return super().get(key)


def late_with_everything(rank: int, world_size: int, port: int, folder: Path) -> None:
    """Rank 1 comes late, hashes its share slowly, loads it slowly and gets its batch late; the collectives keep their own limit."""
    if rank == 1:
        time.sleep(LATE_S)
    distributed.join(rank=rank, world_size=world_size, master_port=port, timeout_s=TIMEOUT_S)
    assert distributed.meet(f"of rank {rank}") == "of rank 0"
    store = SlowStore(folder) if rank == 1 else FileBlobStore(folder)
    cut = agree_on_cut(store, 0, Group(rank, world_size))  # type: ignore[arg-type]
    assert cut is not None
    assert cut.step == 3
    load(store, cut, {"policy": Group(rank, world_size)})  # type: ignore[dict-item]
    trainer = a_rank(port, folder, 1, store=store)
    trainer._learner = Step()  # type: ignore[assignment]
    with pytest.raises(AllCame):
        trainer.train(1)
    if rank == 0:
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="Timed out"):
            torch.distributed.all_reduce(torch.ones(1))
        assert time.monotonic() - began < LATE_S
        (folder / "refused").touch()
    else:
        deadline = time.monotonic() + 60
        while not (folder / "refused").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    distributed.leave()


def test_a_rank_may_be_late_at_the_start_and_slow_with_files_but_not_in_a_collective(tmp_path: Path) -> None:
    store = FileBlobStore(tmp_path)
    write_a_cut(store)
    Ledger(store, lineage=0).commit(a_record(1, [random_group(1)]))
    run_ranks(late_with_everything, 2, tmp_path)


def begins_anew_and_then_not(rank: int, world_size: int, port: int, folder: Path) -> None:
    """All cuts are damaged twice: first the ledger still holds every batch, then batch 1 has been pruned."""
    store = FileBlobStore(folder / "store")
    ledger = Ledger(store, lineage=0)
    for number in (1, 2):
        ledger.commit(a_record(number, [random_group(number)]))
    for epoch in (1, 2):
        assert a_rank(port, folder, epoch).setup()["step"] == 0
        store.replace(f"checkpoints/0/00000000-e{epoch}/manifest.json", b"damaged")
    ledger.prune(2)
    with pytest.raises(ValueError, match="the ledger begins with batch 2"):
        a_rank(port, folder, 3).setup()
    assert not store.list("checkpoints/0/00000000-e3")
    distributed.leave()


def test_without_a_whole_cut_a_run_begins_anew_only_where_its_ledger_reaches_back(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    run_ranks(begins_anew_and_then_not, 1, tmp_path)


def a_rank(port: int, folder: Path, epoch: int, *, store: BlobStore | None = None) -> TrainerRank:
    store = store or FileBlobStore(folder / "store")
    return TrainerRank(
        run_id="r",
        lineage=0,
        epoch=epoch,
        rank=0,
        world_size=1,
        master_addr="127.0.0.1",
        master_port=port,
        config=TrainingConfig(ranks=1, dtype="float32"),
        pacing=PacingConfig(batch_groups=1),
        store_config=StoreConfig(),
        model_path=str(folder / "model"),
        random_init=True,
        seed=3,
        config_hash="c",
        controls=CONTROLS,
        store=store,
        ledger=Ledger(store, lineage=0),
        buffer=None,
    )


def write_a_cut(store: FileBlobStore) -> None:
    blobs = []
    for rank in range(2):
        path = store.scratch()
        blob, _ = write_safetensors(path, blob=f"rank-{rank}.safetensors", tensors={"a": torch.ones(2)})
        store.put_file_if_absent(f"checkpoints/0/00000003-e1/{blob.name}", path)
        blobs.append(blob)
    cut = Cut(
        lineage=0,
        step=3,
        epoch=1,
        world_size=2,
        models={"policy": {}},
        blobs=tuple(blobs),
        state={},
        newest_version=3,
        cursors={},
        config_hash="c",
    )
    commit(store, cut)
