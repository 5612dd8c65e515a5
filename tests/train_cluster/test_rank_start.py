"""Ranks that are far apart at their start, or while they read files, are not taken for dead."""

import time
from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks

from train_cluster import distributed
from train_cluster.checkpoint import Cut, commit
from train_cluster.snapshot import agree_on_cut
from weightstore.blobs import FileBlobStore
from weightstore.shards import write_safetensors

TIMEOUT_S = 3.0
LATE_S = 5.0


class Group:
    """Of a TrainEngine only what agreeing on a cut needs."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(values)
        return values


class SlowStore(FileBlobStore):
    def local_path(self, key: str) -> Path:
        time.sleep(LATE_S)
        return super().local_path(key)


def late_twice(rank: int, world_size: int, port: int, folder: Path) -> None:
    """Rank 1 comes late, and hashes its share slowly; the collectives keep their own limit."""
    if rank == 1:
        time.sleep(LATE_S)
    distributed.join(rank=rank, world_size=world_size, master_port=port, timeout_s=TIMEOUT_S)
    store = SlowStore(folder) if rank == 1 else FileBlobStore(folder)
    cut = agree_on_cut(store, 0, Group(rank, world_size))  # type: ignore[arg-type]
    assert cut is not None
    assert cut.step == 3
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
    write_a_cut(FileBlobStore(tmp_path))
    run_ranks(late_twice, 2, tmp_path)


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
        models={},
        blobs=tuple(blobs),
        state={},
        newest_version=3,
        cursors={},
        config_hash="c",
    )
    commit(store, cut)
