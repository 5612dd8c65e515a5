"""Reading a version: every blob and every tensor is verified before the first tensor is handed out."""

import hashlib
import logging
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from weightstore import metrics, publish
from weightstore.blobs import BlobDamaged, BlobStore
from weightstore.listing import committed_before
from weightstore.manifest import BlobEntry, Manifest, TensorEntry, WeightVersion

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]


class CorruptVersion(ValueError):
    """What lies in the store is not what the manifest lists: names the blob, the expected and the found."""


class VersionMissing(KeyError):
    """There is no such version: never committed, or deleted by retention."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, kw_only=True, slots=True, weakref_slot=True)
class FetchedVersion:
    """A whole, verified version. Stays readable when retention deletes the files underneath.

    What had to be copied to this machine stays there, under the names that `blobs` map, as long as this object lives.
    """

    manifest: Manifest
    blobs: Mapping[str, Bytes]
    """Each blob mapped copy-on-write: nobody's write reaches the store."""

    def tensors(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """The manifest's tensors in its order, each name once, aliases not expanded; views, no copies."""
        import torch  # so that the orchestrator reads manifests without loading it

        for entry in self.manifest.tensors:
            data = self.blobs[entry.blob][entry.offset : entry.offset + entry.nbytes]
            yield entry.name, torch.from_numpy(data).view(getattr(torch, entry.dtype)).reshape(entry.shape)


class WeightSource(Protocol):
    """Where an engine gets its weights from.

    newest()        the version to serve; None before the first publication
    before(version) the older ones that there are, newest first, whole or not: what may be served in its place
    fetch(version)  the version, verified as a whole. VersionMissing, CorruptVersion, StoreError
    """

    def newest(self) -> WeightVersion | None: ...

    def before(self, version: WeightVersion) -> list[WeightVersion]: ...

    def fetch(self, version: WeightVersion) -> FetchedVersion: ...


class StoreWeightSource:
    """One lineage in a store, seen from the life of one run epoch."""

    def __init__(self, store: BlobStore, *, lineage: int, run_epoch: int, threads: int) -> None:
        self._store = store
        self._lineage = lineage
        self._run_epoch = run_epoch
        self._threads = threads

    def newest(self) -> WeightVersion | None:
        return publish.newest(self._store, lineage=self._lineage, run_epoch=self._run_epoch)

    def before(self, version: WeightVersion) -> list[WeightVersion]:
        return committed_before(self._store, version)

    def fetch(self, version: WeightVersion) -> FetchedVersion:
        with metrics.FETCH_SECONDS.time():
            manifest = read_manifest(self._store, version)
            tensors: dict[str, list[TensorEntry]] = {blob.name: [] for blob in manifest.blobs}
            for entry in manifest.tensors:
                tensors[entry.blob].append(entry)
            with ExitStack() as copies:

                def verified(blob: BlobEntry) -> Bytes:
                    return self._verified(version, blob, tensors[blob.name], copies)

                try:
                    with ThreadPoolExecutor(self._threads) as pool:
                        blobs = dict(zip(tensors, pool.map(verified, manifest.blobs), strict=True))
                except CorruptVersion:
                    metrics.CORRUPT_VERSIONS.inc()
                    raise
                fetched = FetchedVersion(manifest=manifest, blobs=blobs)
                weakref.finalize(fetched, copies.pop_all().close)
        size = sum(blob.size for blob in manifest.blobs)
        metrics.FETCHED_BYTES.inc(size)
        logger.info("version fetched", extra={"version": str(version), "bytes": size})
        return fetched

    def _verified(
        self, version: WeightVersion, blob: BlobEntry, tensors: list[TensorEntry], copies: ExitStack
    ) -> Bytes:
        key = f"{version.folder}/{blob.name}"
        try:
            size = self._store.size(key)
            if size != blob.size:
                raise CorruptVersion(f"{key}: expected {blob.size} bytes, found {size}")
            data = np.memmap(copies.enter_context(self._store.local_file(key)), dtype=np.uint8, mode="c")
        except BlobDamaged as error:
            raise CorruptVersion(str(error)) from error
        except (KeyError, FileNotFoundError):
            if not self._store.exists(version.manifest_key):
                raise _missing(version) from None  # retention, just now
            raise CorruptVersion(f"{key}: expected {blob.size} bytes, found no such blob") from None
        _verify(key, data, blob, tensors)
        return data


def read_manifest(store: BlobStore, version: WeightVersion) -> Manifest:
    """VersionMissing: not committed. CorruptVersion: malformed, or the manifest of another version."""
    try:
        manifest = Manifest.decode(store.get(version.manifest_key))
    except KeyError:
        raise _missing(version) from None
    except ValueError as error:
        raise CorruptVersion(f"{version.manifest_key}: {error}") from error
    if manifest.version != version:
        raise CorruptVersion(f"{version.manifest_key}: expected version {version}, found {manifest.version}")
    return manifest


def _verify(key: str, data: Bytes, blob: BlobEntry, tensors: list[TensorEntry]) -> None:
    """Both hashes in one walk over the file, so that it is read from disk once."""
    view = data.data
    whole = hashlib.sha256()
    position = 0
    found = {}
    for entry in sorted(tensors, key=lambda entry: entry.offset):
        end = entry.offset + entry.nbytes
        found[entry.name] = hashlib.sha256(view[entry.offset : end]).hexdigest()
        whole.update(view[position:end])
        position = end
    whole.update(view[position:])
    if whole.hexdigest() != blob.sha256:
        raise CorruptVersion(f"{key}: expected sha256 {blob.sha256}, found {whole.hexdigest()}")
    for entry in tensors:
        if found[entry.name] != entry.sha256:
            raise CorruptVersion(
                f"{key}, tensor {entry.name}: expected sha256 {entry.sha256}, found {found[entry.name]}"
            )


def _missing(version: WeightVersion) -> VersionMissing:
    return VersionMissing(f"no weights under version {version}: it was never committed, or retention deleted it")
