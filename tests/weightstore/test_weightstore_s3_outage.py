"""A store that is gone for a while: what was being published appears late and whole, what was being fetched is asked for
again. Gone for longer than the budget: an error that names it, and nothing torn behind it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import commit_now
from fault_proxy import Fault, FaultProxy

from weightstore.address import parse_address
from weightstore.blobs import StoreError
from weightstore.fetch import StoreWeightSource, VersionMissing
from weightstore.manifest import WeightVersion
from weightstore.publish import record_newest, write_shard
from weightstore.s3 import S3BlobStore

OLD, NEW = WeightVersion(0, 1, 1), WeightVersion(0, 1, 2)
PATIENT_S, HASTY_S = 30.0, 0.5


@pytest.fixture
def opened(proxy: FaultProxy, s3_url: str, tmp_path: Path) -> Callable[[float], S3BlobStore]:
    return lambda retry_s: S3BlobStore(parse_address(s3_url), threads=2, retry_s=retry_s, scratch_folder=tmp_path)


def publish(store: S3BlobStore, version: WeightVersion) -> None:
    write_shard(store, version, 0, {"a": torch.full((9,), float(version.number))})
    commit_now(store, version)


def source(store: S3BlobStore) -> StoreWeightSource:
    return StoreWeightSource(store, lineage=0, run_epoch=1, threads=2)


def test_an_outage_within_the_budget_only_delays_a_version(
    opened: Callable[[float], S3BlobStore], proxy: FaultProxy
) -> None:
    store = opened(PATIENT_S)
    publish(store, OLD)
    proxy.down = True
    with ThreadPoolExecutor(2) as pool:
        publishing = pool.submit(publish, store, NEW)
        fetching = pool.submit(source(opened(PATIENT_S)).fetch, OLD)
        proxy.await_resets(4)
        assert not publishing.done()
        assert not fetching.done()
        proxy.down = False
        publishing.result(PATIENT_S)
        assert fetching.result(PATIENT_S).manifest.version == OLD
    assert dict(source(store).fetch(NEW).tensors())["a"].tolist() == [2.0] * 9


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_an_outage_beyond_the_budget_in_the_middle_of_a_fetch_is_an_error_and_no_damage(
    opened: Callable[[float], S3BlobStore], proxy: FaultProxy, method: str
) -> None:
    """Not a CorruptVersion, after which an engine would never ask for this version again."""
    publish(opened(PATIENT_S), OLD)
    outage = Fault(kind="reset", method=method, contains="safetensors", times=10**6)
    proxy.add(outage)
    reader = source(opened(HASTY_S))
    with pytest.raises(StoreError, match=r"shard-00000.safetensors: .*store.retry_s"):
        reader.fetch(OLD)
    outage.times = 0
    assert dict(reader.fetch(OLD).tensors())["a"].tolist() == [1.0] * 9


@pytest.mark.parametrize("lost", ["shard-00000.safetensors", "shard-00000.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["reset", "reply lost"])
def test_a_publication_that_an_outage_ends_is_whole_or_invisible(
    opened: Callable[[float], S3BlobStore], proxy: FaultProxy, lost: str, kind: str
) -> None:
    store = opened(HASTY_S)
    publish(store, OLD)
    record_newest(store, OLD, run_epoch=1)
    outage = Fault(kind=kind, method="PUT", contains=lost, times=10**6)
    gone = Fault(kind="reset", method="HEAD", contains=lost, times=10**6 if kind == "reply lost" else 0)
    proxy.add(outage, gone)
    with pytest.raises(StoreError, match=r"store.retry_s"):
        publish(store, NEW)
    outage.times = gone.times = 0
    assert source(store).newest() == OLD
    if (lost, kind) == ("manifest.json", "reply lost"):  # it was committed, and nobody knows: as good as never recorded
        assert source(store).fetch(NEW).manifest.version == NEW
    else:
        with pytest.raises(VersionMissing):
            source(store).fetch(NEW)
    again = WeightVersion(0, 2, 2)  # by the ranks' next life
    publish(store, again)
    assert record_newest(store, again, run_epoch=1) == again
    assert dict(source(store).fetch(again).tensors())["a"].tolist() == [2.0] * 9
