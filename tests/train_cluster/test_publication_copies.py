"""Publication from one plain process: what is written is what was copied, and a failure in the background is heard."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from train_records import save_tiny_model

from train_cluster.config import OptimizerConfig
from train_cluster.model import load_policy, tied_aliases
from train_cluster.plain import PlainEngine
from train_cluster.publication import Publisher, model_hash, tokenizer_hash, weights_digest, whole_tensors
from weightstore.blobs import FileBlobStore, StoreError
from weightstore.fetch import StoreWeightSource, read_manifest
from weightstore.manifest import WeightVersion


class SlowStore(FileBlobStore):
    """Writes no shard before it is let go; then fails, if told to."""

    def __init__(self, root: Path, *, fails: bool = False) -> None:
        super().__init__(root)
        self.go = threading.Event()
        self._fails = fails

    def put_file_if_absent(self, key: str, path: Path) -> bool:
        if key.endswith(".safetensors"):
            assert self.go.wait(10)
            if self._fails:
                raise StoreError(28, f"cannot write {key}: No space left on device; free some")
        return super().put_file_if_absent(key, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (save_tiny_model(tmp_path / "model") / "tokenizer_config.json").write_text("{}")
    return tmp_path


def an_engine(folder: Path) -> PlainEngine:
    return PlainEngine(load_policy(folder / "model", random_init=True, seed=1), optimizer=OptimizerConfig())


def a_publisher(engine: PlainEngine, store: FileBlobStore, folder: Path, **changes: Any) -> Publisher:
    settings: dict[str, Any] = {"shard_bytes": 3000, "deadline_s": 10.0} | changes
    aliases = tied_aliases(engine.module)  # type: ignore[arg-type]
    return Publisher(engine, store, lineage=0, epoch=1, model_path=folder / "model", aliases=aliases, **settings)


def test_a_version_is_what_was_copied_though_training_went_on(folder: Path) -> None:
    store = SlowStore(folder / "run")
    engine = an_engine(folder)
    expected = dict(whole_tensors(engine))
    digest = weights_digest(engine)
    publisher = a_publisher(engine, store, folder)
    publisher.publish(1)
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter.add_(1)
    store.go.set()
    answer = publisher.wait(1, timeout_s=10)
    publisher.close()

    fetched = StoreWeightSource(store, lineage=0, run_epoch=1, threads=1).fetch(WeightVersion(0, 1, 1))
    tensors = dict(fetched.tensors())
    assert list(tensors) == list(expected) == list(engine.specs())
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert answer["digest"] == fetched.manifest.digest() == digest != weights_digest(engine)
    assert answer["bytes"] == sum(blob.size for blob in fetched.manifest.blobs)
    assert fetched.manifest.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert fetched.manifest.model_hash == model_hash(folder / "model")


def test_a_failure_is_raised_by_the_next_call_and_leaves_no_version(folder: Path) -> None:
    store = SlowStore(folder / "run", fails=True)
    publisher = a_publisher(an_engine(folder), store, folder)
    publisher.publish(1)
    publisher.check()  # still at work
    store.go.set()
    with pytest.raises(StoreError, match="No space left"):
        publisher.wait(1, timeout_s=10)
    for call in (publisher.check, lambda: publisher.publish(2)):
        with pytest.raises(StoreError, match="No space left"):
            call()
    publisher.close()
    assert store.list("weights") == []


def test_an_answer_is_that_of_the_number_asked_for(folder: Path) -> None:
    publisher = a_publisher(an_engine(folder), FileBlobStore(folder / "run"), folder)
    publisher.publish(4)
    with pytest.raises(ValueError, match="3 was not the last"):
        publisher.wait(3, timeout_s=10)
    assert publisher.wait(4, timeout_s=10)["number"] == 4
    publisher.close()


def test_shards_do_not_depend_on_how_often_one_publishes(folder: Path) -> None:
    store = FileBlobStore(folder / "run")
    publisher = a_publisher(an_engine(folder), store, folder)
    for number in (1, 2):
        publisher.publish(number)
        publisher.wait(number, timeout_s=10)
    publisher.close()
    one, two = (read_manifest(store, WeightVersion(0, 1, number)) for number in (1, 2))
    assert one.blobs == two.blobs
    assert len(one.blobs) > 2


def test_the_hashes_tell_architecture_and_tokenizer_apart(folder: Path) -> None:
    model = folder / "model"
    before = model_hash(model), tokenizer_hash(model)
    (model / "model.safetensors").write_bytes(b"weights count in neither")
    assert (model_hash(model), tokenizer_hash(model)) == before
    (model / "tokenizer_config.json").write_text('{"eos_token": "#"}')
    assert model_hash(model) == before[0]
    assert tokenizer_hash(model) != before[1]
    changed = tokenizer_hash(model)
    (model / "config.json").write_text("{}")
    assert model_hash(model) != before[0]
    assert tokenizer_hash(model) == changed
