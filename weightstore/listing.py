"""Which versions lie in a store, by its listing. Which one is newest is said by a record alone, never by this."""

import re
from collections import defaultdict
from collections.abc import Mapping

from weightstore.blobs import BlobStore
from weightstore.manifest import WeightVersion, lineage_folder

VERSION_FOLDER = re.compile(r"weights/(\d+)/e(\d+)/v(\d+)/")


def version_folders(store: BlobStore, lineage: int) -> dict[WeightVersion, list[str]]:
    """The keys of each version, whole or not."""
    folders = defaultdict(list)
    for key in store.list(lineage_folder(lineage)):
        if match := VERSION_FOLDER.match(key):
            folders[WeightVersion(*map(int, match.groups()))].append(key)
    return dict(folders)


def committed(folders: Mapping[WeightVersion, list[str]]) -> set[WeightVersion]:
    """Those with a manifest, readable or not."""
    return {version for version, keys in folders.items() if version.manifest_key in keys}


def committed_before(store: BlobStore, version: WeightVersion) -> list[WeightVersion]:
    """The committed versions that are older, the newest of them first, in the order of `publish.record_newest`."""
    found = committed(version_folders(store, version.lineage))
    return sorted((other for other in found if _age(other) < _age(version)), key=_age, reverse=True)


def _age(version: WeightVersion) -> tuple[int, int]:
    return version.number, version.epoch
