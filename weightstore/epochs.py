"""Fencing epochs: each life of the orchestrator or of the trainer's ranks claims the next number, once.

One counter for both kinds: `epochs/{n:06d}.json`, created by put-if-absent, from 1.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from weightstore.blobs import BlobStore
from weightstore.seal import seal

FOLDER = "epochs"
SCHEMA = 1

EpochKind = Literal["orchestrator", "ranks"]


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The life that an epoch stands for."""

    schema: int = SCHEMA
    epoch: int
    kind: EpochKind
    life: Mapping[str, Any]
    """What may differ between lives: world size, threads, package versions, ...; JSON values."""


def claim_epoch(store: BlobStore, *, kind: EpochKind, life: Mapping[str, Any]) -> int:
    """Take the next epoch; of lives that claim at once each gets its own."""
    epoch = newest_epoch(store)
    while True:
        epoch += 1
        record = EpochRecord(epoch=epoch, kind=kind, life=life)
        if store.put_if_absent(_key(epoch), seal(record)):
            return epoch


def newest_epoch(store: BlobStore) -> int:
    """The highest claimed epoch of either kind; 0 before the first."""
    keys = store.list(FOLDER)
    return int(keys[-1].removeprefix(f"{FOLDER}/").removesuffix(".json")) if keys else 0


def _key(epoch: int) -> str:
    return f"{FOLDER}/{epoch:06d}.json"
