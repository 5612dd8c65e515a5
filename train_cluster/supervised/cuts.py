"""Checkpoints of a stage of supervised training, in its own folder: the newest stays, and with the stage's end all go."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from train_cluster import checkpoint
from train_cluster.engine import TrainEngine
from train_cluster.snapshot import Writer, agree_on_cut, load, snapshot
from weightstore.blobs import FileBlobStore
from weightstore.epochs import claim_epoch

logger = logging.getLogger(__name__)

KEEP = 1
"""Cuts that stay: one is whole before the one before it goes, and what it stands for is a stage of hours, not a run."""
WRITE_DEADLINE_S = 600.0
"""For the slowest rank's file, once rank 0 has written its own."""

_MODEL = "model"
"""The one that a stage trains, by its name in the cut."""

_COMPONENT, _VERSION, _LINEAGE = "stage", 1, 0


class StageCuts:
    """Cuts of one engine below `folder`, which all ranks see; a new life of the stage is a new epoch of it."""

    def __init__(
        self,
        engine: TrainEngine,
        folder: Path,
        *,
        identity: str,
        reached: Callable[[str, int], None] = lambda point, step: None,
    ) -> None:
        """(collective) `identity`: hash of all that the stage's weights follow from; only cuts of it are gone on with."""
        self._engine, self._identity = engine, identity
        self._store = FileBlobStore(folder)
        life = {"world_size": engine.world_size, "threads": torch.get_num_threads()}
        claimed = claim_epoch(self._store, kind="ranks", life=life) if engine.rank == 0 else 0
        epoch = int(engine.sum(torch.tensor([float(claimed)]))[0])
        self._writer = Writer(
            self._store,
            lineage=_LINEAGE,
            epoch=epoch,
            rank=engine.rank,
            world_size=engine.world_size,
            config_hash=identity,
            deadline_s=WRITE_DEADLINE_S,
            reached=reached,
        )
        self._saved_at = time.monotonic()
        self._last: int | None = None

    def resume(self) -> tuple[int, dict[str, Any]]:
        """(collective) Load the newest whole cut: its step and the state that was saved with it; (0, {}) without one.

        ValueError: it is of another identity.
        """
        cut = agree_on_cut(self._store, _LINEAGE, self._engine)
        if cut is None:
            return 0, {}
        state = dict(cut.state[_COMPONENT])
        if cut.config_hash != self._identity or state.pop("version") != _VERSION:
            raise ValueError(
                f"{self._store.where(cut.manifest_key)}: a checkpoint of other settings; remove its folder"
            )
        load(self._store, cut, {_MODEL: self._engine})
        logger.info("checkpoint loaded", extra={"step": cut.step, "epoch": cut.epoch, "ranks": cut.world_size})
        return cut.step, state

    def overdue(self, interval_s: float | None) -> bool:
        """Whether the last cut is longer ago than that."""
        return interval_s is not None and time.monotonic() - self._saved_at > interval_s

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy what this rank holds and write it in the background. Raises what the cut before it raised."""
        taken = snapshot(
            {_MODEL: self._engine},
            step=step,
            state={_COMPONENT: {"version": _VERSION, **state}},
            newest_version=-1,
            cursors={},
        )
        self._writer.start(taken)  # waits for the cut before it, so that this one makes older ones dispensable
        self._last, self._saved_at = step, time.monotonic()
        if self._engine.rank == 0:
            checkpoint.prune(self._store, _LINEAGE, keep=KEEP)

    def check(self) -> None:
        """Raise what the last cut raised."""
        self._writer.check()

    def wait(self) -> None:
        """Until the last cut is written, on rank 0 until it is committed."""
        if self._last is not None:
            self._writer.wait(self._last, timeout_s=2 * WRITE_DEADLINE_S)

    def close(self) -> None:
        self._writer.close()
