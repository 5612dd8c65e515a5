"""Tensors of a checkpoint: copied in memory, written in the background, loaded on any world size."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open

from train_cluster import distributed
from train_cluster.background import Background
from train_cluster.checkpoint import (
    SCHEMA,
    Cut,
    RankRecord,
    commit,
    cut_folder,
    cuts,
    is_whole,
    rank_file,
    read_cut,
)
from train_cluster.engine import TrainEngine
from weightstore.blobs import BlobStore
from weightstore.manifest import BlobEntry
from weightstore.seal import seal, unseal
from weightstore.shards import write_safetensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One rank's part of a cut, in memory; nothing that trains on changes it."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    """By name in the file."""
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    """{model: {parameter: full shape}}"""
    state: Mapping[str, Mapping[str, Any]]
    newest_version: int
    cursors: Mapping[str, int]


def snapshot(
    engines: Mapping[str, TrainEngine],
    *,
    step: int,
    state: Mapping[str, Mapping[str, Any]],
    newest_version: int,
    cursors: Mapping[str, int],
) -> Snapshot:
    """Copy what this rank holds of each model: the only time for which a checkpoint stops training."""
    return Snapshot(
        step=step,
        tensors={
            f"{model}/{name}": tensor
            for model, engine in engines.items()
            for name, tensor in engine.export_partition().items()
        },
        shapes={model: _shapes(engine) for model, engine in engines.items()},
        state=state,
        newest_version=newest_version,
        cursors=cursors,
    )


class Writer:
    """Writes this rank's snapshots; on rank 0 waits for the others' records and commits the manifest."""

    def __init__(
        self,
        store: BlobStore,
        *,
        lineage: int,
        epoch: int,
        rank: int,
        world_size: int,
        config_hash: str,
        deadline_s: float,
        reached: Callable[[str, int], None] = lambda point, step: None,
    ) -> None:
        """`deadline_s`: for the slowest rank's file, counted from the end of rank 0's own."""
        self._store = store
        self._lineage, self._epoch = lineage, epoch
        self._rank, self._world_size = rank, world_size
        self._config_hash = config_hash
        self._deadline_s = deadline_s
        self._reached = reached
        self._background: Background[dict[str, Any]] = Background("checkpoint")

    def start(self, snapshot: Snapshot) -> None:
        """Write in the background. Raises what the snapshot before it raised."""
        self._background.start(snapshot.step, lambda: self._write(snapshot))

    def check(self) -> None:
        self._background.check()

    def wait(self, step: int, *, timeout_s: float) -> dict[str, Any]:
        """{step, bytes, write_s} once this rank's part is in the store; on rank 0, once the cut is committed."""
        return self._background.result(step, timeout_s=timeout_s)

    def close(self) -> None:
        self._background.close()

    def _write(self, snapshot: Snapshot) -> dict[str, Any]:
        began = time.monotonic()
        folder = cut_folder(self._lineage, snapshot.step, self._epoch)
        blob = self._write_blob(folder, snapshot.tensors)
        self._store.put_if_absent(_record_key(folder, self._rank), seal(RankRecord(blob=blob)))
        size = blob.size
        if self._rank == 0:
            cut = self._cut(snapshot, self._await_blobs(folder))
            self._reached("cut.manifest.before", cut.step)
            commit(self._store, cut)
            self._reached("cut.manifest.after", cut.step)
            size = sum(blob.size for blob in cut.blobs)
        seconds = time.monotonic() - began
        logger.info("checkpoint written", extra={"step": snapshot.step, "bytes": size, "seconds": seconds})
        return {"step": snapshot.step, "epoch": self._epoch, "bytes": size, "write_s": seconds}

    def _write_blob(self, folder: str, tensors: Mapping[str, torch.Tensor]) -> BlobEntry:
        name = f"rank-{self._rank}.safetensors"
        path = self._store.scratch()
        try:
            blob, _ = write_safetensors(path, blob=name, tensors=tensors)
            if not self._store.put_file_if_absent(f"{folder}/{name}", path):
                raise ValueError(f"{folder}/{name} exists already: start the ranks under a new epoch")
        finally:
            path.unlink(missing_ok=True)
        return blob

    def _await_blobs(self, folder: str) -> tuple[BlobEntry, ...]:
        keys = [_record_key(folder, rank) for rank in range(self._world_size)]
        self._background.await_all(self._store.exists, keys, deadline_s=self._deadline_s)
        return tuple(unseal(self._store.get(key), RankRecord, name=key, schema=SCHEMA).blob for key in keys)

    def _cut(self, snapshot: Snapshot, blobs: tuple[BlobEntry, ...]) -> Cut:
        return Cut(
            lineage=self._lineage,
            step=snapshot.step,
            epoch=self._epoch,
            world_size=self._world_size,
            models=snapshot.shapes,
            blobs=blobs,
            state=snapshot.state,
            newest_version=snapshot.newest_version,
            cursors=snapshot.cursors,
            config_hash=self._config_hash,
        )


def agree_on_cut(store: BlobStore, lineage: int, engine: TrainEngine, *, step: int | None = None) -> Cut | None:
    """(collective) The newest whole cut, or the one at `step`, the same on every rank; None: there is none.

    Rank 0 alone lists, since two listings of a shared folder may differ; all verify their share of the files.
    They meet before each collective: to hash a share may take longer than a collective may.
    """
    listed = iter(cuts(store, lineage) if engine.rank == 0 else ())
    candidates = (cut for cut in listed if step is None or cut.step == step)
    while True:
        candidate = next(candidates, None)
        distributed.meet()
        named = engine.sum(torch.tensor([candidate.step + 1, candidate.epoch] if candidate else [0, 0]))
        if not named[0]:
            return None
        cut = read_cut(store, lineage, int(named[0]) - 1, int(named[1]))
        damaged = not is_whole(store, cut, ranks=range(engine.rank, cut.world_size, engine.world_size))
        distributed.meet()
        if not engine.sum(torch.tensor([damaged])).any():
            return cut


def load(store: BlobStore, cut: Cut, engines: Mapping[str, TrainEngine]) -> None:
    """(collective) Set the engines to the cut, whatever world size wrote it; reads only this rank's slices of the files.

    ValueError: the cut is of other models, or one of the files is damaged.
    """
    if set(cut.models) != set(engines):
        held, wanted = (" and ".join(sorted(names)) for names in (cut.models, engines))
        raise ValueError(f"{cut.manifest_key} is a checkpoint of {held}, and this run trains {wanted}")
    slices = {model: _slices(cut, model, engine) for model, engine in engines.items()}
    some = next(iter(engines.values()))
    parts = {rank for pieces in slices.values() for piece in pieces.values() for rank in piece.parts}
    needed = sorted({some.rank % cut.world_size} | parts)
    with ExitStack() as opened:
        paths = {rank: opened.enter_context(rank_file(store, cut, rank)) for rank in needed}
        if None in paths.values():
            raise ValueError(
                f"{cut.manifest_key}: a file of it is damaged (see the log); remove the folder to pass it over"
            )
        files = {rank: safe_open(path, framework="pt") for rank, path in paths.items()}
        tensors = {
            model: {
                label: tensor for name, piece in pieces.items() for label, tensor in _read(files, model, name, piece)
            }
            for model, pieces in slices.items()
        }
    distributed.meet()  # each rank has read its slices in its own time, and DeepSpeed gathers small parameters at once
    for model, engine in engines.items():
        engine.import_partition(tensors[model])


def _shapes(engine: TrainEngine) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in engine.specs().items()}


def _slices(cut: Cut, model: str, engine: TrainEngine) -> dict[str, "_Slice"]:
    shapes = _shapes(engine)
    if shapes != cut.models[model]:
        odd = sorted({*shapes.items()} ^ {*cut.models[model].items()})[0]
        raise ValueError(
            f"{cut.manifest_key} is a checkpoint of another {model}: {odd[0]} has shape {odd[1]} in one only"
        )
    return {name: _Slice.of(shape, cut=cut, engine=engine) for name, shape in shapes.items()}


def _read(files: Mapping[int, Any], model: str, name: str, piece: "_Slice") -> Iterator[tuple[str, torch.Tensor]]:
    """Master weights, moments and update count of one parameter, by the names of `import_partition`."""
    for label in (name, f"{name}.exp_avg", f"{name}.exp_avg_sq"):
        yield label, piece.read(files, f"{model}/{label}")
    yield f"{name}.step", next(iter(files.values())).get_tensor(f"{model}/{name}.step")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slice:
    """Where one rank's slice of a parameter lies in the files of another world size."""

    elements: int
    """Of the slice, padding included."""
    parts: Mapping[int, tuple[int, int]]
    """{rank of the cut: [from, to) in its own slice}, in order; what they leave open is padding."""

    @staticmethod
    def of(shape: tuple[int, ...], *, cut: Cut, engine: TrainEngine) -> "_Slice":
        whole = torch.Size(shape).numel()
        old, new = -(-whole // cut.world_size), -(-whole // engine.world_size)
        start = min(engine.rank * new, whole)
        end = min(start + new, whole)
        ranks = range(start // old, -(-end // old))
        parts = {k: (max(start - k * old, 0), min(end - k * old, old)) for k in ranks} if start < end else {}
        return _Slice(elements=new, parts=parts)

    def read(self, files: Mapping[int, Any], key: str) -> torch.Tensor:
        piece = torch.zeros(self.elements, dtype=torch.float32)
        filled = 0
        for rank, (start, end) in self.parts.items():
            piece[filled : filled + end - start] = files[rank].get_slice(key)[start:end]
            filled += end - start
        return piece


def _record_key(folder: str, rank: int) -> str:
    return f"{folder}/rank-{rank}.json"
