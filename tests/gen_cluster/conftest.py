"""One vLLM engine for all tests here: it takes seconds to start, and a process can hold only one."""

import os
from collections.abc import Iterator

import gen_tiny_policy
import pytest
import torch
from gen_tiny_policy import FIRST, SECOND, Published

from gen_cluster.config import EngineConfig
from gen_cluster.vllm_engine import VllmEngine
from weightstore.blobs import FileBlobStore
from weightstore.fetch import StoreWeightSource


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever spoils the engine comes last."""
    items.sort(key=lambda item: "spoiled_engine" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("policy")
    gen_tiny_policy.build(folder)
    store = FileBlobStore(tmp_path_factory.mktemp("store"))
    policies = {version.number: gen_tiny_policy.policy(folder, seed=version.number) for version in (FIRST, SECOND)}
    for version in (FIRST, SECOND):
        gen_tiny_policy.publish_tensors(store, version, gen_tiny_policy.tensors_of(policies[version.number]))
    source = StoreWeightSource(store, lineage=0, run_epoch=0, threads=1)
    return Published(folder=folder, store=store, source=source, policies=policies)


@pytest.fixture(scope="session")
def shared_engine(published: Published) -> Iterator[VllmEngine]:
    config = EngineConfig(max_sequences=16, kv_cache_gib=0.125, dtype="float32", threads=1)
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    engine = VllmEngine(config, model_path=str(published.folder))
    # An engine has its process for itself; here other tests follow, which set threads and start processes.
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads = set_num_threads
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: VllmEngine, published: Published) -> Iterator[VllmEngine]:
    """Serving the first version, idle."""
    shared_engine.update(published.source.fetch(FIRST))
    yield shared_engine
    assert shared_engine.running() == 0


@pytest.fixture
def spoiled_engine(shared_engine: VllmEngine) -> VllmEngine:
    """Free to break: no other test uses it afterwards."""
    return shared_engine
