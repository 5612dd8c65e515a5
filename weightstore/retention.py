"""Which versions stay, and how the others go: manifest first, so that no reader ever trusts a version half deleted."""

import logging
from collections.abc import Collection, Iterable, Mapping

from weightstore import metrics
from weightstore.blobs import BlobStore
from weightstore.fetch import CorruptVersion, VersionMissing, read_manifest
from weightstore.listing import committed, version_folders
from weightstore.manifest import WeightVersion

logger = logging.getLogger(__name__)


def keep(
    versions: Iterable[WeightVersion],
    *,
    newest: int,
    max_staleness: int,
    cut_steps: Collection[int],
    pinned: Collection[WeightVersion],
    bases: Mapping[WeightVersion, WeightVersion],
) -> set[WeightVersion]:
    """The versions of one lineage that must stay.

    The newest max_staleness + 2 numbers up to `newest`, the recorded one (batches in flight may name them), and all
    above it (committed, not yet recorded); for each kept cut the last number at or before its step; pins; and
    whatever a kept delta or adapter applies to, by `bases`. A number stays in all its epochs.
    """
    versions = set(versions)
    numbers = sorted({version.number for version in versions})
    recorded = [number for number in numbers if number <= newest]
    wanted = {number for number in numbers if number > newest} | set(recorded[-(max_staleness + 2) :])
    for step in cut_steps:
        wanted.update([number for number in numbers if number <= step][-1:])
    kept = set()
    queue = [version for version in versions if version.number in wanted or version in pinned]
    while queue:
        version = queue.pop()
        if version not in kept:
            kept.add(version)
            queue += [bases[version]] if version in bases else []
    return kept


def sweep(
    store: BlobStore,
    lineage: int,
    *,
    newest: int,
    max_staleness: int,
    cut_steps: Collection[int],
    pinned: Collection[WeightVersion],
    ranks_epoch: int,
) -> list[WeightVersion]:
    """Delete the other versions; returns them, in order.

    Publications without a manifest are deleted when their epoch is below `ranks_epoch`, that of the living ranks:
    nobody will finish them.
    """
    folders = version_folders(store, lineage)
    whole = committed(folders)
    bases = {version: base for version in whole if (base := _base(store, version))}
    kept = keep(whole, newest=newest, max_staleness=max_staleness, cut_steps=cut_steps, pinned=pinned, bases=bases)
    torn = {version for version in folders.keys() - whole if version.epoch < ranks_epoch}
    doomed = sorted((whole - kept) | torn)
    for version in doomed:
        store.delete(version.manifest_key)
        for key in folders[version]:
            store.delete(key)
        metrics.DELETED_VERSIONS.inc()
        logger.info("version deleted", extra={"version": str(version)})
    return doomed


def _base(store: BlobStore, version: WeightVersion) -> WeightVersion | None:
    try:
        base = read_manifest(store, version).base
    except (CorruptVersion, VersionMissing) as error:
        # Nobody can read it, so it needs no base; it must not keep the disk from being cleaned either.
        logger.warning("version unreadable", extra={"version": str(version), "error": str(error)})
        return None
    return WeightVersion.parse(base) if base else None
