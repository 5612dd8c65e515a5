"""Which published version of a run a person means: the newest, the best by its own evaluation, or that of a step."""

from orchestrator.folder import RunFolder
from orchestrator.stores import LINEAGE
from weightstore.blobs import BlobStore
from weightstore.listing import committed, version_folders
from weightstore.manifest import WeightVersion
from weightstore.pins import BEST, pins
from weightstore.publish import last_recorded

NEWEST = "newest"


def find_version(store: BlobStore, folder: RunFolder, which: str) -> WeightVersion:
    """`which`: newest, best, or a step's number, which means its last publication. ValueError: there is none, and what
    there is."""
    if which == NEWEST:
        newest = last_recorded(store, lineage=LINEAGE)
        if newest is None:
            raise ValueError(f"{folder.path}: the run has published no weights yet; remedy: let it train a step")
        return newest
    if which == BEST:
        best = pins(store, lineage=LINEAGE).get(BEST)
        if best is None:
            raise ValueError(
                f"{folder.path}: no version was evaluated yet, so none is best; "
                "remedy: set evaluation.interval_steps and resume the run, or name a step"
            )
        return best
    there = committed(version_folders(store, LINEAGE))
    found = [version for version in there if str(version.number) == which]
    if not found:
        numbers = ", ".join(map(str, sorted({version.number for version in there}))) or "none"
        raise ValueError(
            f"version = {which}: {folder.path} keeps no such version (kept: {numbers}); name one of these, best or newest"
        )
    return max(found)
