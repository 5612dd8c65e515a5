from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_proxy import FaultProxy

from weightstore import s3_client
from weightstore.address import parse_address
from weightstore.blobs import BlobStore, FileBlobStore
from weightstore.fetch import StoreWeightSource
from weightstore.manifest import Manifest, WeightVersion
from weightstore.publish import commit, plan_shards, write_shard
from weightstore.s3 import S3BlobStore

RETRY_S = 30.0


@pytest.fixture(params=["file", "s3"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BlobStore]:
    """Opens the same store again, as another process would; one parameter per implementation."""
    if request.param == "file":
        return lambda: FileBlobStore(tmp_path / "store")
    address = parse_address(request.getfixturevalue("s3_url"))
    return lambda: S3BlobStore(address, threads=2, retry_s=RETRY_S, scratch_folder=tmp_path / "scratch")


@pytest.fixture
def store(reopen: Callable[[], BlobStore]) -> BlobStore:
    return reopen()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """Both dtypes mixed, odd sizes, a scalar and an empty tensor: what alignment and views could trip over."""
    generator = torch.Generator().manual_seed(0)
    return {
        "embed": torch.randn(7, 3, generator=generator).to(torch.bfloat16),
        "layer.q": torch.randn(5, 5, generator=generator),
        "layer.k": torch.randn(5, generator=generator).to(torch.bfloat16),
        "layer.scale": torch.tensor(2.5),
        "layer.none": torch.empty(0, 3),
        "norm": torch.randn(9, generator=generator),
    }


Publish = Callable[..., Manifest]


@pytest.fixture
def publish(store: BlobStore) -> Publish:
    """publish(version, tensors, shard_bytes=..., aliases=...): all shards, then the manifest."""

    def publish(
        version: WeightVersion,
        tensors: Mapping[str, torch.Tensor],
        *,
        shard_bytes: int = 80,
        aliases: Mapping[str, str] | None = None,
    ) -> Manifest:
        sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
        shards = plan_shards(sizes, shard_bytes=shard_bytes)
        for index, names in enumerate(shards):
            write_shard(store, version, index, {name: tensors[name] for name in names})
        return commit_now(store, version, shards=len(shards), aliases=aliases or {})

    return publish


def commit_now(store: BlobStore, version: WeightVersion, **changes: Any) -> Manifest:
    settings: dict[str, Any] = {
        "shards": 1,
        "step": version.number,
        "aliases": {},
        "model_hash": "m",
        "tokenizer_hash": "t",
        "deadline_s": 5.0,
        "cancelled": lambda: False,
    }
    return commit(store, version, **(settings | changes))


@pytest.fixture
def commit_version() -> Callable[..., Manifest]:
    return commit_now


@pytest.fixture
def source(store: BlobStore) -> StoreWeightSource:
    return StoreWeightSource(store, lineage=0, run_epoch=1, threads=2)


@pytest.fixture
def proxy(s3_endpoint: str, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Stands between the store and the server of `s3_url`; the store waits briefly between tries."""
    proxy = FaultProxy(s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
    monkeypatch.setattr(s3_client, "LONGEST_WAIT_S", 0.2)
    yield proxy
    proxy.close()
