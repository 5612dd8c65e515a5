import logging
from collections.abc import Mapping
from itertools import pairwise

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightstore.blobs import FileBlobStore
from weightstore.manifest import Manifest, WeightVersion
from weightstore.publish import write_shard
from weightstore.retention import keep, sweep

TINY: Mapping[str, torch.Tensor] = {"a": torch.zeros(2)}


@pytest.fixture
def reopen(tmp_path):
    """Of what stands on the contract, one implementation is enough."""
    return lambda: FileBlobStore(tmp_path / "store")


def v(number, epoch=1):
    return WeightVersion(0, epoch, number)


def kept(numbers, **changes):
    settings = {"newest": max(numbers), "max_staleness": 0, "cut_steps": (), "pinned": (), "bases": {}}
    return sorted(version.number for version in keep(map(v, numbers), **(settings | changes)))


def test_the_newest_two_more_than_the_staleness_stay():
    assert kept(range(10)) == [8, 9]
    assert kept(range(10), max_staleness=3) == [5, 6, 7, 8, 9]
    assert kept(range(0, 20, 2), max_staleness=1) == [14, 16, 18]  # published every second step
    assert kept([0]) == [0]


def test_versions_not_yet_recorded_stay():
    assert kept(range(10), newest=7) == [6, 7, 8, 9]


def test_a_cut_keeps_the_last_version_at_or_before_its_step():
    assert kept(range(0, 20, 2), cut_steps=(0, 5, 8)) == [0, 4, 8, 16, 18]
    assert kept([4, 6, 8], cut_steps=(3,)) == [6, 8]


def test_pins_stay_and_chains_are_whole():
    bases = {v(number): v(number - 1) for number in range(10) if number not in (0, 4, 8)}
    assert kept(range(10), bases=bases) == [8, 9]
    assert kept(range(10), newest=8, pinned=(v(6),), bases=bases) == [4, 5, 6, 7, 8, 9]


def test_a_number_stays_in_all_its_epochs():
    versions = [v(number, epoch) for epoch in (1, 2) for number in range(4)]
    settings = {"newest": 3, "max_staleness": 0, "cut_steps": (), "pinned": (v(0, 2),), "bases": {}}
    assert keep(versions, **settings) == {v(2, 1), v(3, 1), v(2, 2), v(3, 2), v(0, 2)}


@given(
    st.sets(st.integers(min_value=0, max_value=30), min_size=1),
    st.integers(min_value=0, max_value=30),
    st.integers(min_value=0, max_value=5),
    st.sets(st.integers(min_value=0, max_value=30)),
)
def test_no_chain_of_a_kept_version_is_broken(numbers, newest, max_staleness, cuts):
    ordered = sorted(numbers)
    bases = {v(number): v(base) for base, number in pairwise(ordered) if number % 4}
    result = keep(map(v, numbers), newest=newest, max_staleness=max_staleness, cut_steps=cuts, pinned=(), bases=bases)
    assert result <= set(map(v, numbers))
    assert all(bases[version] in result for version in result if version in bases)
    assert keep(result, newest=newest, max_staleness=max_staleness, cut_steps=(), pinned=(), bases=bases) <= result


def run_sweep(store, **changes):
    settings = {"newest": 5, "max_staleness": 0, "cut_steps": (0,), "pinned": (), "ranks_epoch": 2}
    return sweep(store, 0, **(settings | changes))


def test_a_sweep_deletes_the_rest_and_what_dead_ranks_left(store, publish, source):
    for number in range(6):
        publish(v(number), TINY)
    write_shard(store, v(6, epoch=1), 0, TINY)  # left by ranks that died
    write_shard(store, v(6, epoch=2), 0, TINY)  # being published now
    other_lineage = WeightVersion(1, 1, 0)
    publish(other_lineage, TINY)

    assert run_sweep(store) == [v(1), v(2), v(3), v(6)]
    left = {key.rpartition("/")[0] for key in store.list("weights")}
    assert left == {version.folder for version in (v(0), v(4), v(5), v(6, epoch=2), other_lineage)}
    source.fetch(v(4))
    assert run_sweep(store) == []


def test_a_manifest_goes_before_its_blobs(store, publish, monkeypatch):
    for number in range(3):
        publish(v(number), TINY)
    early = f"{v(0).folder}/delta-00000.zst"  # sorts before the manifest
    store.put_if_absent(early, b"")
    deleted = []
    delete = store.delete
    monkeypatch.setattr(store, "delete", lambda key: (deleted.append(key), delete(key)))
    run_sweep(store, newest=2, cut_steps=())
    assert deleted[0] == v(0).manifest_key
    assert {early, v(0).shard_key(0)} <= set(deleted)


def test_a_chain_is_read_from_the_manifests(store, publish):
    for number in range(4):
        manifest = publish(v(number), TINY)
        if number == 3:
            store.replace(v(3).manifest_key, msgspec.structs.replace(manifest, kind="delta", base="0/1/1").encode())
    assert run_sweep(store, newest=3, cut_steps=()) == [v(0)]


def test_an_unreadable_manifest_does_not_stop_the_sweep(store, publish, caplog):
    for number in range(4):
        publish(v(number), TINY)
    store.replace(v(0).manifest_key, b"{}")
    with pytest.raises(ValueError, match="malformed"):
        Manifest.decode(store.get(v(0).manifest_key))
    with caplog.at_level(logging.WARNING):
        assert run_sweep(store, newest=3, cut_steps=()) == [v(0), v(1)]
    assert "version unreadable" in caplog.text
