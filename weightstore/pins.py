"""Pins: versions that retention spares as long as a name points at them, such as the best policy so far.

    weights/{lineage}/pins/{name}/e{run epoch}.json

Each life of the orchestrator has records of its own, as for the newest version: a zombie's word is older than the one
that the life after it took over, and reaches nobody.
"""

import logging
import re

import msgspec

from weightstore.blobs import BlobStore
from weightstore.manifest import SCHEMA, WeightVersion, lineage_folder
from weightstore.seal import seal, unseal

logger = logging.getLogger(__name__)

BEST = "best"
"""The version that the run's evaluation puts first."""
CANDIDATE = "candidate"
"""The version that is being evaluated: it may become the best one."""

_KEY = re.compile(r"weights/\d+/pins/(?P<name>[a-z_]+)/e(?P<epoch>\d+)\.json")


class PinRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a name points at, by the word of one run epoch."""

    schema: int = SCHEMA
    version: WeightVersion


def pin(store: BlobStore, name: str, version: WeightVersion, *, run_epoch: int) -> None:
    """Point `name`, lower-case letters and underscores, at `version`; what it pointed at before is free again."""
    key = f"{_folder(version.lineage)}/{name}/e{run_epoch}.json"
    assert _KEY.fullmatch(key), f"{name!r} names no pin"
    store.replace(key, seal(PinRecord(version=version)))
    logger.info("version pinned", extra={"pin": name, "version": str(version), "run_epoch": run_epoch})


def pins(store: BlobStore, *, lineage: int) -> dict[str, WeightVersion]:
    """{name: version} by the word of the newest run epoch that gave one; an unreadable word is named in a warning, the
    one before it taken in its place."""
    words = [
        (int(match["epoch"]), match["name"], key)
        for key in store.list(_folder(lineage))
        if (match := _KEY.fullmatch(key))
    ]
    found: dict[str, WeightVersion] = {}
    for _, name, key in sorted(words, reverse=True):
        if name in found:
            continue
        try:
            found[name] = unseal(store.get(key), PinRecord, name=key, schema=SCHEMA).version
        except (KeyError, ValueError) as error:
            logger.warning("pin passed over: %s", error)
    return found


def adopt_pins(store: BlobStore, *, lineage: int, run_epoch: int) -> dict[str, WeightVersion]:
    """Take over the word of the lives before, so that none of them can change it any more."""
    found = pins(store, lineage=lineage)
    for name, version in found.items():
        pin(store, name, version, run_epoch=run_epoch)
    return found


def _folder(lineage: int) -> str:
    return f"{lineage_folder(lineage)}/pins"
