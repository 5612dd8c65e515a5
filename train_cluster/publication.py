"""Publishing the weights: gathered tensor by tensor, each shard by the rank that owns it; the manifest last, by rank 0.

Training waits for the gather and the copy only. Shards are cut without regard to ranks (weightstore.publish), so names,
hashes and blobs are the same at every world size, and no rank ever holds more than its shards and one tensor.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from train_cluster.background import Background
from train_cluster.engine import TrainEngine
from train_cluster.model import FOLDER_FILES
from weightstore import manifest
from weightstore.blobs import BlobStore
from weightstore.manifest import WeightVersion
from weightstore.publish import commit, plan_shards, write_shard
from weightstore.shards import identity

logger = logging.getLogger(__name__)

HASH_BYTES = 32
"""Of SHA-256."""

MODEL_FILES = ("config.json", "generation_config.json")
"""Files of a model folder, beside the weights, that are not the tokenizer's."""


class Publisher:
    """Publishes versions `lineage/epoch/number` of one engine's weights."""

    def __init__(
        self,
        engine: TrainEngine,
        store: BlobStore,
        *,
        lineage: int,
        epoch: int,
        model_path: Path,
        aliases: Mapping[str, str],
        shard_bytes: int,
        deadline_s: float,
        reached: Callable[[str, int], None] = lambda point, step: None,
    ) -> None:
        """`aliases`: {alias: published name} of tied parameters. `deadline_s`: for the slowest rank's shards."""
        self._engine = engine
        self._store = store
        self._lineage, self._epoch = lineage, epoch
        self._identity = {"model_hash": model_hash(model_path), "tokenizer_hash": tokenizer_hash(model_path)}
        self._aliases = dict(aliases)
        self._deadline_s = deadline_s
        self._reached = reached
        sizes = {name: torch.Size(s.shape).numel() * s.dtype.itemsize for name, s in engine.specs().items()}
        self._shards = plan_shards(sizes, shard_bytes=shard_bytes)
        self._background: Background[dict[str, Any]] = Background("publish")

    def publish(self, number: int) -> float:
        """(collective) Copy the weights of step `number` and write them in the background; seconds that training waited.

        Raises what the publication before it raised.
        """
        began = time.monotonic()
        self._background.check()
        mine = self._gather()
        seconds = time.monotonic() - began
        self._background.start(number, lambda: self._write(number, mine, gather_s=seconds))
        return seconds

    def check(self) -> None:
        self._background.check()

    def wait(self, number: int, *, timeout_s: float) -> dict[str, Any]:
        """Rank 0: {number, epoch, digest, bytes, gather_s, write_s} once the version is committed."""
        return self._background.result(number, timeout_s=timeout_s)

    def close(self) -> None:
        self._background.close()

    def _gather(self) -> dict[int, dict[str, torch.Tensor]]:
        """{shard: its tensors} of the shards that this rank owns, on the CPU."""
        mine: dict[int, dict[str, torch.Tensor]] = {}
        for index, names in enumerate(self._shards):
            for name in names:
                tensor = self._engine.gather(name, owner=index % self._engine.world_size)
                if tensor is not None:
                    mine.setdefault(index, {})[name] = tensor.cpu()
        return mine

    def _write(self, number: int, mine: Mapping[int, Mapping[str, torch.Tensor]], *, gather_s: float) -> dict[str, Any]:
        began = time.monotonic()
        version = WeightVersion(self._lineage, self._epoch, number)
        for index, tensors in mine.items():
            write_shard(self._store, version, index, tensors)
        answer: dict[str, Any] = {"number": number, "epoch": self._epoch, "gather_s": gather_s}
        if self._engine.rank == 0:
            self._reached("version.manifest.before", number)
            committed = commit(
                self._store,
                version,
                shards=len(self._shards),
                step=number,
                aliases=self._aliases,
                deadline_s=self._deadline_s,
                cancelled=self._background.cancelled,
                **self._identity,
            )
            self._reached("version.manifest.after", number)
            answer |= {"digest": committed.digest(), "bytes": sum(blob.size for blob in committed.blobs)}
        return {**answer, "write_s": time.monotonic() - began}


def weights_digest(engine: TrainEngine) -> str:
    """(collective) What `Manifest.digest()` would be if these weights were published; the same on every rank."""
    specs = engine.specs()
    hashes = torch.zeros(len(specs), HASH_BYTES, dtype=torch.float64)
    for index, name in enumerate(specs):
        tensor = engine.gather(name, owner=index % engine.world_size)
        if tensor is not None:
            hashes[index] = torch.tensor(list(bytes.fromhex(identity(name, tensor)[3])), dtype=torch.float64)
    rows = engine.sum(hashes).to(torch.uint8).tolist()  # a sum of one rank's bytes and the others' zeros is exact
    return manifest.weights_digest(
        (name, str(spec.dtype).removeprefix("torch."), spec.shape, bytes(row).hex())
        for (name, spec), row in zip(specs.items(), rows, strict=True)
    )


def whole_tensors(engine: TrainEngine) -> Iterator[tuple[str, torch.Tensor]]:
    """(collective) Every parameter in turn, on rank 0's CPU; nothing on the other ranks, which must iterate as well."""
    for name in engine.specs():
        tensor = engine.gather(name, owner=0)
        if tensor is not None:
            yield name, tensor.cpu()


def model_hash(model_path: Path) -> str:
    """SHA-256 of config.json: the architecture."""
    return hashlib.sha256((model_path / "config.json").read_bytes()).hexdigest()


def tokenizer_hash(model_path: Path) -> str:
    """SHA-256 over the tokenizer's files, names and contents; of nothing where the folder has none."""
    whole = hashlib.sha256()
    for path in sorted(model_path.iterdir()):
        if path.name not in MODEL_FILES and any(fnmatch(path.name, pattern) for pattern in FOLDER_FILES):
            whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()
