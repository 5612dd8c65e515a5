"""What a checkpoint is in the store: one file a rank and one manifest, written last. Which ones there are, which stay.

    checkpoints/{lineage}/{step:08d}-e{epoch}/   rank-0.safetensors  rank-0.json  ...  manifest.json <- last

It is a cut: everything that the steps after it depend on beside the ledger. It exists once its manifest does, and never
changes. Imports no torch; snapshot.py writes and loads the tensors.
"""

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from weightstore.blobs import BlobDamaged, BlobStore
from weightstore.manifest import BlobEntry
from weightstore.seal import seal, unseal

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Of the manifest and of a rank's record; any other is refused."""

POLICY, CRITIC = "policy", "critic"
"""Names of models in a cut. Only the policy is published."""

CUT_FOLDER = re.compile(r"checkpoints/\d+/(\d{8})-e(\d+)/")


class RankRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rank tells rank 0 once its file is in the store."""

    schema: int = SCHEMA
    blob: BlobEntry


class Cut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of one checkpoint."""

    schema: int = SCHEMA
    lineage: int
    step: int
    """The last step in it; 0 = before the first."""
    epoch: int
    """Of the ranks that wrote it."""
    world_size: int
    models: Mapping[str, Mapping[str, tuple[int, ...]]]
    """{model: {parameter: full shape}}; how a parameter is cut into slices: TrainEngine.export_partition."""
    blobs: tuple[BlobEntry, ...]
    """By rank. Tensors are named `{model}/{name of export_partition}`."""
    state: Mapping[str, Mapping[str, Any]]
    """{component: its own versioned state}; JSON values."""
    newest_version: int
    """Number of the newest version of the weights that was committed then; -1 = none."""
    cursors: Mapping[str, int]
    """Prompts drawn, by data set."""
    config_hash: str

    @property
    def folder(self) -> str:
        return cut_folder(self.lineage, self.step, self.epoch)

    @property
    def manifest_key(self) -> str:
        return f"{self.folder}/manifest.json"

    def blob_key(self, rank: int) -> str:
        return f"{self.folder}/{self.blobs[rank].name}"


def cut_folder(lineage: int, step: int, epoch: int) -> str:
    return f"checkpoints/{lineage}/{step:08d}-e{epoch}"


def commit(store: BlobStore, cut: Cut) -> None:
    """Write the manifest. ValueError: another writer of this epoch was first, with another content."""
    data = seal(cut)
    if not store.put_if_absent(cut.manifest_key, data) and store.get(cut.manifest_key) != data:
        raise ValueError(f"{cut.manifest_key} exists with other content: start the ranks under a new epoch")


def read_cut(store: BlobStore, lineage: int, step: int, epoch: int) -> Cut:
    """KeyError: no such cut. ValueError: its manifest is damaged, or of another schema."""
    key = f"{cut_folder(lineage, step, epoch)}/manifest.json"
    return unseal(store.get(key), Cut, name=key, schema=SCHEMA)


def cuts(store: BlobStore, lineage: int) -> list[Cut]:
    """All with a readable manifest, newest first: by step, then by epoch. Unreadable ones are named in a warning."""
    found = []
    for step, epoch in _committed(_folders(store, lineage)):
        try:
            found.append(read_cut(store, lineage, step, epoch))
        except (KeyError, ValueError) as error:
            logger.warning("checkpoint unreadable: %s", error, extra={"step": step, "epoch": epoch})
    return found


def is_whole(store: BlobStore, cut: Cut, *, ranks: Iterable[int] | None = None) -> bool:
    """Whether the files of these ranks (all, unless given) are what the manifest lists."""
    for rank in range(cut.world_size) if ranks is None else ranks:
        with rank_file(store, cut, rank) as path:
            if path is None:
                return False
    return True


@contextmanager
def rank_file(store: BlobStore, cut: Cut, rank: int) -> Iterator[Path | None]:
    """The file of one rank, to be read inside the `with`; None, and a warning: it is not what the manifest lists."""
    key, expected = cut.blob_key(rank), cut.blobs[rank]
    with ExitStack() as stack:
        path = None
        try:
            path = stack.enter_context(store.local_file(key))
            found = _sha256(path)
        except KeyError:
            found = "no such file"
        except BlobDamaged as error:
            found = str(error)
        if found != expected.sha256:
            logger.warning("checkpoint damaged: %s: expected sha256 %s, found %s", key, expected.sha256, found)
        yield path if found == expected.sha256 else None


def check_new_beginning(store: BlobStore, lineage: int, *, batches: Sequence[int], step: int = 0) -> None:
    """A run may go on after `step` (0: without a whole cut it begins anew) only where all batches after it, ascending
    numbers, can be trained again: of a cut that was kept for a pinned version they may be gone.

    ValueError: batch step + 1 is gone; names the damaged cuts and the remedy.
    """
    if batches and batches[0] > step + 1:
        committed = _committed(_folders(store, lineage))
        found = ", ".join(cut_folder(lineage, *place) for place in committed if place[0] > step or not step)
        newer = f"no checkpoint after step {step}" if step else "no checkpoint"
        raise ValueError(
            f"{newer} is whole (damaged: {found or 'none is there'}) and the ledger begins with batch {batches[0]}, "
            "so that the steps before it cannot be trained again; restore a checkpoint's folder from a copy, or start "
            "another run from an exported version"
        )


def nearest_cuts(store: BlobStore, lineage: int, numbers: Iterable[int]) -> set[int]:
    """The steps of the cuts to keep beside pinned versions: of each number the last at or before it, else the first after."""
    steps = sorted(cut.step for cut in cuts(store, lineage))
    before = {number: [step for step in steps if step <= number] for number in numbers}
    return {step for found in before.values() for step in (found[-1:] or steps[:1])}


def prune(store: BlobStore, lineage: int, *, keep: int, pinned: Collection[int] = ()) -> list[int]:
    """Delete all but the newest `keep` cuts and those at pinned steps, manifest first; returns the steps deleted.

    A cut whose manifest cannot be read does not count; it goes once there are `keep` newer ones. A folder without a manifest goes too once a cut of a later epoch exists: nobody will finish it.
    """
    folders = _folders(store, lineage)
    committed = _committed(folders)
    latest_epoch = max((epoch for _, epoch in committed), default=0)
    torn = [place for place in folders if place not in committed and place[1] < latest_epoch]
    readable = [(cut.step, cut.epoch) for cut in cuts(store, lineage)]
    oldest_kept = readable[keep - 1] if len(readable) >= keep else (0, 0)
    doomed = [place for place in committed if place < oldest_kept and place[0] not in pinned]
    for step, epoch in sorted(doomed + torn):
        store.delete(f"{cut_folder(lineage, step, epoch)}/manifest.json")
        for key in folders[step, epoch]:
            store.delete(key)
        logger.info("checkpoint deleted", extra={"step": step, "epoch": epoch})
    return sorted(step for step, _ in doomed)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(store: BlobStore, lineage: int) -> dict[tuple[int, int], list[str]]:
    """{(step, epoch): keys}"""
    folders: dict[tuple[int, int], list[str]] = {}
    for key in store.list(f"checkpoints/{lineage}"):
        if match := CUT_FOLDER.match(key):
            folders.setdefault((int(match[1]), int(match[2])), []).append(key)
    return folders


def _committed(folders: Mapping[tuple[int, int], list[str]]) -> list[tuple[int, int]]:
    """Those with a manifest, newest first."""
    return sorted((place for place, keys in folders.items() if any(key.endswith("/manifest.json") for key in keys)))[
        ::-1
    ]
