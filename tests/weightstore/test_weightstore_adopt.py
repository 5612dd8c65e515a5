"""A new life goes on with the newest version that is whole."""

import pytest
import torch

from weightstore.adopt import adopt_newest
from weightstore.blobs import FileBlobStore
from weightstore.manifest import WeightVersion
from weightstore.publish import newest, record_newest

TENSORS = {"a": torch.arange(4.0), "b": torch.ones(3)}


@pytest.fixture
def reopen(tmp_path):
    """Of what stands on the contract, one implementation is enough."""
    return lambda: FileBlobStore(tmp_path / "store")


def adopt(store, run_epoch, lineage=0):
    return adopt_newest(store, lineage=lineage, run_epoch=run_epoch, threads=1)


def flip(store, key):
    data = bytearray(store.get(key))
    data[-1] ^= 1
    store.delete(key)
    store.put_if_absent(key, bytes(data))


def lose_shard(store, version):
    store.delete(version.shard_key(0))


def flip_shard(store, version):
    flip(store, version.shard_key(0))


def flip_manifest(store, version):
    flip(store, version.manifest_key)


def lose_manifest(store, version):
    store.delete(version.manifest_key)


DAMAGES = [lose_shard, flip_shard, flip_manifest, lose_manifest]


def test_a_new_life_adopts_the_word_of_the_life_before_it(store, source, publish):
    assert adopt(store, 1) is None
    for number in (6, 9, 50, 99):
        publish(WeightVersion(0, 1, number), TENSORS)
    for epoch, number in ((2, 9), (10, 6), (12, 99)):
        record_newest(store, WeightVersion(0, 1, number), run_epoch=epoch)
    assert adopt(store, 11) == WeightVersion(0, 1, 6)
    assert newest(store, lineage=0, run_epoch=11) == WeightVersion(0, 1, 6)
    record_newest(store, WeightVersion(0, 1, 50), run_epoch=10)  # a zombie's word, too late
    assert adopt(store, 11) == WeightVersion(0, 1, 6)
    assert adopt(store, 11, lineage=1) is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_version_is_named_and_the_newest_whole_one_below_it_adopted(store, publish, damage, caplog):
    one, same, two, above = (WeightVersion(0, *numbers) for numbers in ((2, 1), (1, 3), (2, 3), (2, 4)))
    for version in (one, same, two, above):
        publish(version, TENSORS)
    record_newest(store, two, run_epoch=1)
    damage(store, two)
    assert adopt(store, 2) == same  # the same number by an earlier epoch; version 4 was never recorded
    assert str(two.folder) in caplog.text or str(two) in caplog.text
    damage(store, same)
    assert adopt(store, 3) == one
    assert newest(store, lineage=0, run_epoch=3) == one


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_whole_version_none_is_adopted_and_what_is_published_again_is_newest(store, publish, damage):
    publish(WeightVersion(0, 1, 3), TENSORS)
    record_newest(store, WeightVersion(0, 1, 3), run_epoch=1)
    damage(store, WeightVersion(0, 1, 3))
    assert adopt(store, 2) is None
    assert newest(store, lineage=0, run_epoch=2) is None
    again = WeightVersion(0, 2, 2)
    publish(again, TENSORS)
    assert record_newest(store, again, run_epoch=2) == again
    assert adopt(store, 3) == again


def test_an_unreadable_word_is_named_and_taken_for_none(store, publish, caplog):
    publish(WeightVersion(0, 1, 3), TENSORS)
    record_newest(store, WeightVersion(0, 1, 3), run_epoch=1)
    flip(store, "weights/0/newest/e1.json")
    assert adopt(store, 2) is None
    assert "weights/0/newest/e1.json is malformed" in caplog.text
    record_newest(store, WeightVersion(0, 1, 3), run_epoch=2)
    assert adopt(store, 3) == WeightVersion(0, 1, 3)
