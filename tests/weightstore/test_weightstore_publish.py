import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from weightstore.blobs import FileBlobStore
from weightstore.fetch import CorruptVersion, VersionMissing
from weightstore.manifest import WeightVersion, weights_digest
from weightstore.publish import (
    PublicationCancelled,
    last_recorded,
    newest,
    plan_shards,
    record_newest,
    write_shard,
)
from weightstore.shards import identity

V1 = WeightVersion(0, 1, 1)


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist()


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_shards_are_cut_in_order_and_a_large_tensor_stands_alone():
    sizes = {"a": 4, "b": 6, "c": 1, "d": 25, "e": 3, "f": 7}
    assert plan_shards(sizes, shard_bytes=10) == (("a", "b"), ("c",), ("d",), ("e", "f"))
    assert plan_shards({}, shard_bytes=10) == ()


@given(st.lists(st.integers(min_value=0, max_value=30)), st.integers(min_value=1, max_value=40))
def test_a_plan_holds_every_name_once_in_order_within_the_limit(sizes, limit):
    named = {str(index): size for index, size in enumerate(sizes)}
    shards = plan_shards(named, shard_bytes=limit)
    assert [name for shard in shards for name in shard] == list(named)
    assert all(len(shard) == 1 or sum(named[name] for name in shard) <= limit for shard in shards)
    starts = [named[shard[0]] for shard in shards]
    for shard, start in zip(shards, starts[1:], strict=False):
        assert sum(named[name] for name in shard) + start > limit  # no shard is cut early


# -- publish and fetch -------------------------------------------------------------------------------------------------


def test_a_fetched_version_is_bit_identical_in_publication_order(publish, source, weights):
    manifest = publish(V1, weights)
    fetched = source.fetch(V1)
    assert fetched.manifest == manifest
    tensors = list(fetched.tensors())
    assert [name for name, _ in tensors] == list(weights)
    for name, tensor in tensors:
        assert (tensor.dtype, tensor.shape) == (weights[name].dtype, weights[name].shape)
        assert bits(tensor) == bits(weights[name])
        assert tensor.data_ptr() % tensor.element_size() == 0


def test_a_shard_is_an_ordinary_safetensors_file(store, weights):
    write_shard(store, V1, 0, weights)
    with store.local_file(V1.shard_key(0)) as path:
        loaded = load_file(path)
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_strided_and_trained_tensors_are_published_by_value(publish, source):
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    publish(V1, {"transposed": parameter.T, "slice": parameter[:, 1]})
    tensors = dict(source.fetch(V1).tensors())
    assert tensors["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tensors["slice"].tolist() == [1, 4]


def test_an_unknown_dtype_is_refused_and_leaves_nothing(store):
    with pytest.raises(ValueError, match="tensor a: dtype complex64"):
        write_shard(store, V1, 0, {"a": torch.zeros(1, dtype=torch.complex64)})
    assert store.list("") == []
    assert not store.scratch().parent.exists() or not list(store.scratch().parent.iterdir())


def test_a_tied_tensor_is_stored_once_and_its_alias_is_listed(publish, source, weights):
    publish(V1, weights, aliases={"lm_head": "embed"})
    fetched = source.fetch(V1)
    assert fetched.manifest.aliases == {"lm_head": "embed"}
    assert [name for name, _ in fetched.tensors()] == list(weights)


def test_the_digest_does_not_depend_on_sharding_epoch_or_order(publish, weights):
    fine = publish(V1, weights, shard_bytes=1)
    coarse = publish(WeightVersion(0, 2, 1), weights, shard_bytes=10**6)
    reordered = publish(WeightVersion(0, 3, 1), dict(reversed(weights.items())))
    assert len(fine.blobs) == 6
    assert len(coarse.blobs) == 1
    assert fine.digest() == coarse.digest() == reordered.digest()
    changed = weights | {"layer.q": weights["layer.q"] + 1e-6}
    assert publish(WeightVersion(0, 4, 1), changed).digest() != fine.digest()
    assert weights_digest(identity(name, tensor) for name, tensor in weights.items()) == fine.digest()


def test_what_a_reader_writes_into_a_tensor_does_not_reach_the_store(publish, source, weights):
    publish(V1, weights)
    for _, tensor in source.fetch(V1).tensors():
        tensor.zero_()
    assert dict(source.fetch(V1).tensors())["norm"].equal(weights["norm"])


def test_local_copies_of_a_version_last_as_long_as_it_does(publish, source, store, weights):
    """An engine's other processes map the files by their names."""
    publish(V1, weights)
    fetched = source.fetch(V1)
    files = [Path(data.filename) for data in fetched.blobs.values()]
    assert len(files) == len(fetched.manifest.blobs)
    assert [file.stat().st_size for file in files] == [blob.size for blob in fetched.manifest.blobs]
    copied = not isinstance(store, FileBlobStore)
    del fetched
    assert [file for file in files if file.exists()] == ([] if copied else files)


def test_a_fetched_version_outlives_its_files(publish, source, store, weights):
    publish(V1, weights)
    fetched = source.fetch(V1)
    for key in store.list("weights"):
        store.delete(key)
    assert dict(fetched.tensors())["norm"].equal(weights["norm"])
    with pytest.raises(VersionMissing, match="no weights under version 0/1/1: it was never committed"):
        source.fetch(V1)


# -- torn, corrupt, raced ----------------------------------------------------------------------------------------------


def test_a_torn_publication_is_invisible(store, source, weights, commit_version):
    write_shard(store, V1, 0, weights)
    with pytest.raises(VersionMissing):
        source.fetch(V1)
    with pytest.raises(TimeoutError, match=r"shards \[1, 2\] of 3"):
        commit_version(store, V1, shards=3, deadline_s=0.1)
    with pytest.raises(PublicationCancelled, match=r"shards \[1\]"):
        commit_version(store, V1, shards=2, cancelled=lambda: True)
    assert not store.exists(V1.manifest_key)


def test_the_committer_waits_for_the_shards_of_others(reopen, source, weights, commit_version):
    waiting = threading.Event()

    def cancelled():
        waiting.set()  # asked while a record is missing
        return False

    with ThreadPoolExecutor(1) as pool:
        manifest = pool.submit(commit_version, reopen(), V1, shards=2, cancelled=cancelled)
        write_shard(reopen(), V1, 1, {"b": weights["norm"]})
        assert waiting.wait(5)
        assert not reopen().exists(V1.manifest_key)
        write_shard(reopen(), V1, 0, {"a": weights["embed"]})
        assert [tensor.name for tensor in manifest.result(5).tensors] == ["a", "b"]
    assert [name for name, _ in source.fetch(V1).tensors()] == ["a", "b"]


def flip(store, key, position):
    data = bytearray(store.get(key))
    data[position] ^= 1
    store.replace(key, bytes(data))


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_byte_in_a_shard_is_named(publish, source, store, weights, position):
    publish(V1, weights)
    flip(store, V1.shard_key(1), position)
    with pytest.raises(CorruptVersion, match=r"shard-00001.safetensors: expected sha256 \w{64}, found \w{64}"):
        source.fetch(V1)


def test_a_tensor_that_is_not_the_listed_one_is_named(publish, source, store, weights):
    manifest = publish(V1, weights)
    swapped = [msgspec.structs.replace(tensor, sha256=manifest.tensors[0].sha256) for tensor in manifest.tensors]
    store.replace(V1.manifest_key, msgspec.structs.replace(manifest, tensors=tuple(swapped)).encode())
    with pytest.raises(CorruptVersion, match=r"safetensors, tensor layer.q: expected sha256 \w{64}, found \w{64}"):
        source.fetch(V1)


def test_a_flipped_byte_in_a_record_is_named(publish, source, store, weights, commit_version):
    write_shard(store, V1, 0, weights)
    record = store.get(V1.shard_record_key(0))
    flip(store, V1.shard_record_key(0), len(record) // 2)
    with pytest.raises(ValueError, match=r"shard-00000.json is malformed"):
        commit_version(store, V1)

    version = WeightVersion(0, 1, 2)
    publish(version, weights)
    flip(store, version.manifest_key, store.get(version.manifest_key).index(b'"step":2') + 7)
    with pytest.raises(CorruptVersion, match=r"v2/manifest.json: manifest is malformed: expected sha256"):
        source.fetch(version)

    record_newest(store, version, run_epoch=1)
    flip(store, "weights/0/newest/e1.json", store.get("weights/0/newest/e1.json").index(b'"number":2') + 9)
    with pytest.raises(ValueError, match=r"newest/e1.json is malformed"):
        source.newest()


def test_a_short_a_missing_and_a_foreign_blob_are_named(publish, source, store, weights):
    publish(V1, weights)
    whole = store.get(V1.shard_key(0))
    store.replace(V1.shard_key(0), whole[:-1])
    with pytest.raises(
        CorruptVersion, match=rf"shard-00000.safetensors: expected {len(whole)} bytes, found {len(whole) - 1}"
    ):
        source.fetch(V1)
    store.delete(V1.shard_key(0))
    with pytest.raises(CorruptVersion, match="found no such blob"):
        source.fetch(V1)
    elsewhere = WeightVersion(0, 1, 2)
    store.put_if_absent(elsewhere.manifest_key, store.get(V1.manifest_key))
    with pytest.raises(CorruptVersion, match="expected version 0/1/2, found 0/1/1"):
        source.fetch(elsewhere)


def test_two_epochs_publish_the_same_number_side_by_side(publish, source, weights):
    zombie, living = WeightVersion(0, 1, 7), WeightVersion(0, 2, 7)
    publish(living, weights)
    publish(zombie, {"norm": torch.zeros(9)})
    assert dict(source.fetch(living).tensors())["norm"].equal(weights["norm"])
    assert dict(source.fetch(zombie).tensors())["norm"].equal(torch.zeros(9))


def test_of_racing_committers_one_wins_and_all_agree(reopen, weights, commit_version):
    write_shard(reopen(), V1, 0, weights)
    with ThreadPoolExecutor(4) as pool:
        manifests = list(pool.map(lambda _: commit_version(reopen(), V1), range(4)))
    assert len({manifest.publication_id for manifest in manifests}) == 1


def test_a_shard_may_be_written_again_but_never_changed(store, weights):
    write_shard(store, V1, 0, weights)
    before = {key: store.get(key) for key in store.list("weights")}
    write_shard(store, V1, 0, weights)
    with pytest.raises(ValueError, match=r"shard-00000.safetensors exists with other content"):
        write_shard(store, V1, 0, {"norm": torch.zeros(9)})
    assert {key: store.get(key) for key in store.list("weights")} == before


# -- the newest version ------------------------------------------------------------------------------------------------


def test_newest_is_the_word_of_one_run_epoch_and_never_goes_back(store, source):
    assert source.newest() is None
    assert record_newest(store, WeightVersion(0, 2, 5), run_epoch=1) == WeightVersion(0, 2, 5)
    assert record_newest(store, WeightVersion(0, 3, 4), run_epoch=1) == WeightVersion(0, 2, 5)
    assert source.newest() == WeightVersion(0, 2, 5)
    record_newest(store, WeightVersion(0, 3, 5), run_epoch=1)  # the same step, published again by restarted ranks
    assert source.newest() == WeightVersion(0, 3, 5)
    assert newest(store, lineage=0, run_epoch=2) is None
    assert newest(store, lineage=1, run_epoch=1) is None


def test_the_last_word_is_that_of_the_newest_life_up_to_an_epoch(store):
    for epoch, number in ((2, 9), (10, 6), (12, 99)):
        record_newest(store, WeightVersion(0, 1, number), run_epoch=epoch)
    assert last_recorded(store, lineage=0) == WeightVersion(0, 1, 99)
    assert last_recorded(store, lineage=0, up_to_epoch=11) == WeightVersion(0, 1, 6)
    assert last_recorded(store, lineage=0, up_to_epoch=1) is None
    assert last_recorded(store, lineage=1) is None
