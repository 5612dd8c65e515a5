"""With which weights a new life of the orchestrator goes on: the newest that is whole, up to the last life's word."""

import logging

from weightstore.blobs import BlobStore
from weightstore.fetch import CorruptVersion, StoreWeightSource, VersionMissing
from weightstore.manifest import WeightVersion
from weightstore.publish import last_recorded, record_newest

logger = logging.getLogger(__name__)


def adopt_newest(store: BlobStore, *, lineage: int, run_epoch: int, threads: int) -> WeightVersion | None:
    """Take over the word of the life before, every hash verified; a damaged version is named in a warning, an older one
    taken in its place. None: nothing was published, nothing is whole, or the word itself is unreadable.

    An older number is safe: it only narrows the window of admission until the ranks, which load their cut and train the
    committed batches again, have published under their new epoch.
    """
    try:
        word = last_recorded(store, lineage=lineage, up_to_epoch=run_epoch)
    except ValueError as error:
        logger.warning("no version adopted: %s", error)
        return None
    if word is None:
        return None
    source = StoreWeightSource(store, lineage=lineage, run_epoch=run_epoch, threads=threads)
    for version in [word, *source.before(word)]:
        if _is_whole(source, version):
            return record_newest(store, version, run_epoch=run_epoch)
    return None


def _is_whole(source: StoreWeightSource, version: WeightVersion) -> bool:
    try:
        source.fetch(version)
    except (CorruptVersion, VersionMissing) as error:
        logger.warning("version passed over: %s", error, extra={"version": str(version)})
        return False
    return True
