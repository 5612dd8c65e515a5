"""What rank 0 deletes after a publication and a checkpoint leaves pinned versions and the cuts beside them. No ranks: 3 s,
of which the imports are most."""

from types import SimpleNamespace

import pytest
import torch
from train_records import CONTROLS, a_record, random_group

from experience.config import PacingConfig
from experience.ledger import Ledger
from train_cluster import worker as trainer
from train_cluster.checkpoint import Cut, check_new_beginning, commit, cuts, nearest_cuts
from train_cluster.config import CheckpointConfig, TrainingConfig
from train_cluster.worker import TrainerRank
from weightstore import publish
from weightstore.blobs import FileBlobStore
from weightstore.config import StoreConfig
from weightstore.listing import committed, version_folders
from weightstore.manifest import WeightVersion
from weightstore.pins import pin


@pytest.fixture
def store(tmp_path):
    return FileBlobStore(tmp_path / "store")


@pytest.fixture
def rank(store, monkeypatch):
    """Rank 0, not joined: what it deletes needs no model."""
    monkeypatch.setattr(trainer, "HISTORY_STEPS", 0)
    worker = TrainerRank(
        run_id="r",
        lineage=0,
        epoch=1,
        rank=0,
        world_size=1,
        master_addr="",
        master_port=0,
        config=TrainingConfig(checkpoint=CheckpointConfig(keep=2)),
        pacing=PacingConfig(max_staleness=0),
        store_config=StoreConfig(),
        model_path="m",
        random_init=False,
        seed=0,
        config_hash="c",
        controls=CONTROLS,
        store=store,
        ledger=Ledger(store, lineage=0),
        buffer=None,
    )
    worker._publisher = SimpleNamespace(wait=lambda number, timeout_s: {"number": number})
    return worker


def write_cut(store, step):
    facts = {"models": {}, "blobs": (), "state": {}, "newest_version": step, "cursors": {}, "config_hash": "c"}
    commit(store, Cut(lineage=0, step=step, epoch=1, world_size=0, **facts))


def write_version(store, number):
    version = WeightVersion(0, 1, number)
    publish.write_shard(store, version, 0, {"a": torch.zeros(1)})
    facts = {"aliases": {}, "model_hash": "m", "tokenizer_hash": "t", "deadline_s": 5.0, "cancelled": lambda: False}
    publish.commit(store, version, shards=1, step=number, **facts)


def test_the_nearest_cut_is_the_last_at_or_before_the_version_else_the_first_after(store):
    assert nearest_cuts(store, 0, [3]) == set()
    for step in (2, 4, 6):
        write_cut(store, step)
    assert nearest_cuts(store, 0, []) == set()
    assert nearest_cuts(store, 0, [5, 4, 9]) == {4, 6}
    assert nearest_cuts(store, 0, [1]) == {2}


def test_a_pinned_cut_stays_and_holds_no_batches_back(store, rank):
    for number in range(1, 9):
        rank._ledger.commit(a_record(number, [random_group(number, size=1)]))
    for step in (0, 2, 4, 6, 8):
        write_cut(store, step)
    pin(store, "best", WeightVersion(0, 1, 3), run_epoch=1)
    assert rank.prune() == {"cuts_deleted": 2, "batches_from": 7}
    assert [cut.step for cut in cuts(store, 0)] == [8, 6, 2]
    assert rank._ledger.numbers() == [7, 8]
    check_new_beginning(store, 0, batches=rank._ledger.numbers(), step=6)
    with pytest.raises(ValueError, match=r"no checkpoint after step 2 is whole \(damaged: \S+8-e1, \S+6-e1\)"):
        check_new_beginning(store, 0, batches=rank._ledger.numbers(), step=2)
    pin(store, "best", WeightVersion(0, 1, 8), run_epoch=1)
    assert rank.prune()["cuts_deleted"] == 1
    assert [cut.step for cut in cuts(store, 0)] == [8, 6]


def test_a_pinned_version_stays_until_the_pin_moves(store, rank):
    for number in range(7):
        write_version(store, number)
    pin(store, "best", WeightVersion(0, 1, 2), run_epoch=1)
    rank.published(6, 1.0)
    assert numbers(store) == {2, 5, 6}
    pin(store, "best", WeightVersion(0, 1, 6), run_epoch=1)
    rank.published(6, 1.0)
    assert numbers(store) == {5, 6}


def numbers(store):
    return {version.number for version in committed(version_folders(store, 0))}
