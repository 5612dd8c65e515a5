"""Publishing a version: shards first, by whoever owns them; the manifest last, by one; then the word that it is newest.

The three steps need no collective: a shard's writer leaves a record beside it, the committer waits for these records.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from weightstore import metrics
from weightstore.blobs import BlobStore
from weightstore.manifest import SCHEMA, Manifest, ShardRecord, WeightVersion, lineage_folder
from weightstore.seal import seal, unseal
from weightstore.shards import write_safetensors

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.05
"""Between looks for the records of other ranks' shards; a store has no other way to tell."""


class PublicationCancelled(RuntimeError):
    """The caller gave the publication up before its manifest was written: the version does not exist."""


class NewestRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version the readers of one run epoch shall serve."""

    schema: int = SCHEMA
    version: WeightVersion


def plan_shards(sizes: Mapping[str, int], *, shard_bytes: int) -> tuple[tuple[str, ...], ...]:
    """Cut the tensors {name: bytes}, in the order given, into shards of at most `shard_bytes`.

    A larger tensor has a shard of its own. The cut knows nothing of ranks, so blobs do not depend on the world size.
    """
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return tuple(map(tuple, shards))


def write_shard(store: BlobStore, version: WeightVersion, index: int, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Write shard `index` and its record. Doing it again with the same tensors is harmless.

    ValueError: the shard exists with other content; a version's weights never change.
    """
    with metrics.PUBLISH_SECONDS.time():
        key = version.shard_key(index)
        path = store.scratch()
        try:
            blob, entries = write_safetensors(path, blob=key.rpartition("/")[2], tensors=tensors)
            won = store.put_file_if_absent(key, path)
        finally:
            path.unlink(missing_ok=True)
        if not won and _sha256(store, key) != blob.sha256:
            raise ValueError(f"{key} exists with other content: publish under a new number or a new epoch")
        store.put_if_absent(version.shard_record_key(index), seal(ShardRecord(blob=blob, tensors=entries)))
    metrics.PUBLISHED_BYTES.inc(blob.size)
    logger.info("shard written", extra={"version": str(version), "shard": index, "bytes": blob.size})


def commit(
    store: BlobStore,
    version: WeightVersion,
    *,
    shards: int,
    step: int,
    aliases: Mapping[str, str],
    model_hash: str,
    tokenizer_hash: str,
    deadline_s: float,
    cancelled: Callable[[], bool],
) -> Manifest:
    """Wait for the records of all shards, then write the manifest: the one moment in which the version appears.

    Of several committers one wins; all return the winner's manifest. TimeoutError: names the shards that are missing
    after `deadline_s`. PublicationCancelled: `cancelled()` became true while waiting.
    """
    with metrics.COMMIT_SECONDS.time():
        records = _await_records(store, version, shards=shards, deadline_s=deadline_s, cancelled=cancelled)
        manifest = Manifest(
            kind="full",
            version=version,
            base="",
            publication_id=secrets.token_hex(8),
            step=step,
            model_hash=model_hash,
            tokenizer_hash=tokenizer_hash,
            aliases=dict(aliases),
            tensors=tuple(entry for record in records for entry in record.tensors),
            blobs=tuple(record.blob for record in records),
        )
        if store.put_if_absent(version.manifest_key, manifest.encode()):
            winner = manifest
        else:
            winner = Manifest.decode(store.get(version.manifest_key))
    # A store may report a lost race although we won, when the reply was lost: our own id in the manifest tells.
    won = winner.publication_id == manifest.publication_id
    logger.info("version committed" if won else "version was committed by another", extra={"version": str(version)})
    return winner


def record_newest(store: BlobStore, version: WeightVersion, *, run_epoch: int) -> WeightVersion:
    """Say that `version` is the newest; only the orchestrator that holds `run_epoch` may.

    Its record is its own, so a zombie's word reaches nobody. Never goes back in number (restarted ranks publish some
    steps again). Returns what is newest now.
    """
    current = newest(store, lineage=version.lineage, run_epoch=run_epoch)
    if current is not None and (version.number, version.epoch) <= (current.number, current.epoch):
        return current
    store.replace(_newest_key(version.lineage, run_epoch), seal(NewestRecord(version=version)))
    metrics.NEWEST_VERSION.set(version.number)
    logger.info("newest version recorded", extra={"version": str(version), "run_epoch": run_epoch})
    return version


def newest(store: BlobStore, *, lineage: int, run_epoch: int) -> WeightVersion | None:
    """The newest version by the word of `run_epoch`'s orchestrator; None before its first."""
    key = _newest_key(lineage, run_epoch)
    try:
        data = store.get(key)
    except KeyError:
        return None
    return unseal(data, NewestRecord, name=key, schema=SCHEMA).version


def last_recorded(store: BlobStore, *, lineage: int, up_to_epoch: int | None = None) -> WeightVersion | None:
    """The word of the last orchestrator that gave one, of all or up to a run epoch; None: nothing was published.

    For readers outside a life (export, replay); within one, ask for `newest`.
    """
    epochs = [int(key.rpartition("/e")[2].removesuffix(".json")) for key in store.list(_newest_folder(lineage))]
    epochs = [epoch for epoch in epochs if up_to_epoch is None or epoch <= up_to_epoch]
    return newest(store, lineage=lineage, run_epoch=max(epochs)) if epochs else None


def _await_records(
    store: BlobStore, version: WeightVersion, *, shards: int, deadline_s: float, cancelled: Callable[[], bool]
) -> list[ShardRecord]:
    deadline = time.monotonic() + deadline_s
    missing = list(range(shards))
    while missing := [index for index in missing if not store.exists(version.shard_record_key(index))]:
        if cancelled():
            raise PublicationCancelled(f"publication of version {version} was cancelled, shards {missing} were missing")
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"version {version}: shards {missing} of {shards} were not written within {deadline_s} s"
            )
        time.sleep(POLL_INTERVAL_S)
    keys = [version.shard_record_key(index) for index in range(shards)]
    return [unseal(store.get(key), ShardRecord, name=key, schema=SCHEMA) for key in keys]


def _sha256(store: BlobStore, key: str) -> str:
    with store.local_file(key) as path, path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _newest_folder(lineage: int) -> str:
    return f"{lineage_folder(lineage)}/newest"


def _newest_key(lineage: int, run_epoch: int) -> str:
    return f"{_newest_folder(lineage)}/e{run_epoch}.json"
