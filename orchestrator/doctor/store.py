"""The store: written, read and deleted for once, and whether a name can be taken by one writer alone, on which every
commit stands.

What is written lies in a place of its own and is deleted again.
"""

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe
from orchestrator.doctor.clocks import skew_finding
from orchestrator.doctor.finding import Finding, error, note, of_line, ok, warning
from weightstore.blobs import BlobStore, FileBlobStore, StoreError

SLOW_COMMIT_S = 0.25
"""For a few bytes, written durably under their name: each step commits one batch, and the server syncs each write."""
PATIENCE_S = 10.0
"""For a bucket that does not answer."""
_DATA = b"headrace doctor"


def store_folder(recipe: Recipe) -> Path:
    return Path(recipe.store.url or recipe.run.root)


def check_folder(root: Path, *, store: BlobStore | None = None) -> Iterator[Finding]:
    """`store`: to be looked at in place of one in that folder."""
    existing = next(parent for parent in (root, *root.parents) if parent.exists())
    own = existing / f".headrace-doctor-{uuid.uuid4().hex[:8]}"
    try:
        yield from _commits(store or FileBlobStore(own), kind=f"{existing} ({filesystem(existing)})")
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _commits(store: BlobStore, *, kind: str) -> Iterator[Finding]:
    began = time.monotonic()
    try:
        first = store.put_if_absent("probe/blob", _DATA)
        took = time.monotonic() - began
        second = store.put_if_absent("probe/blob", b"another")
        read = store.get("probe/blob")
        store.delete("probe/blob")
    except StoreError as failure:
        yield of_line("error", "store", str(failure))
        return
    if not first or second or read != _DATA:
        yield error(
            "store",
            f"{kind}: a name that was taken could be taken again",
            "two writers could commit one batch: link(2) does not refuse there",
            "name a folder on a POSIX filesystem in store.url",
        )
        return
    yield ok("store", f"{kind}: written, read, deleted; a taken name stays taken (link and fsync)")
    if took > SLOW_COMMIT_S:
        why = "each step commits a batch so, and the server of the run syncs each write"
        yield warning("store speed", f"{took:.2f} s for one commit at {kind}", why, "name a faster disk in run.root")
    else:
        yield ok("store speed", f"{1000 * took:.0f} ms for one commit")


def check_bucket(recipe: Recipe) -> Iterator[Finding]:
    from weightstore.address import parse_address
    from weightstore.s3 import S3BlobStore
    from weightstore.s3_client import S3Client

    assert recipe.store.url is not None
    address = parse_address(recipe.store.url).below(f"doctor-{uuid.uuid4().hex[:8]}")
    scratch = Path(recipe.store.scratch) if recipe.store.scratch else None
    retry_s = min(recipe.store.retry_s, PATIENCE_S)
    store = S3BlobStore(address, threads=recipe.store.fetch_threads, retry_s=retry_s, scratch_folder=scratch)
    try:
        store.put_if_absent("probe/blob", _DATA)
        read = store.get("probe/blob")
        store.delete("probe/blob")
        store.prove_conditional_puts()
    except (StoreError, ValueError, KeyError) as failure:
        yield of_line("error", "store", f"{recipe.store.url}: {failure}")
        return
    if read != _DATA:
        yield error("store", f"{recipe.store.url}: what was read is not what was put", "", "name another store")
        return
    yield ok("store", f"{recipe.store.url}: written, read, deleted; If-None-Match is honoured, whole and in parts")
    client = S3Client(address, connections=1, retry_s=retry_s)
    yield from _bucket_clock(client, address.bucket)
    yield from _bucket_versions(client, address.bucket)


def _bucket_clock(client: Any, bucket: str) -> Iterator[Finding]:
    asked = time.time()
    answer = client.request("list", "probe", lambda s3: s3.list_objects_v2(Bucket=bucket, Prefix="probe/", MaxKeys=1))
    answered = time.time()
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date:
        theirs = parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp() + 0.5  # cut to whole seconds
        yield skew_finding("store clock", theirs - (asked + answered) / 2, within_s=(answered - asked) / 2 + 0.5)


def _bucket_versions(client: Any, bucket: str) -> Iterator[Finding]:
    try:
        answer = client.request("list", "probe", lambda s3: s3.get_bucket_versioning(Bucket=bucket), patient=False)
    except StoreError:
        yield note("bucket versions", "not known: s3:GetBucketVersioning is denied")
        return
    if answer.get("Status") == "Enabled":
        yield note(
            "bucket versions",
            "the bucket keeps versions of its objects",
            "retention deletes what a run needs no longer, and the bucket keeps and bills all of it",
            "a lifecycle rule that expires noncurrent versions below the prefix",
        )
    else:
        yield ok("bucket versions", "none are kept of objects")


def filesystem(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Type of the filesystem that a folder is on."""
    best, kind = "", "unknown"
    for line in mounts.read_text().splitlines():
        _, point, name, *_ = line.split()
        point = point.replace("\\040", " ")
        if len(point) >= len(best) and folder.resolve().is_relative_to(point):
            best, kind = point, name
    return kind


@contextlib.contextmanager
def meeting_folder(root: Path) -> Iterator[Path]:
    """A folder for all nodes to leave a file in; gone afterwards."""
    existing = next(parent for parent in (root, *root.parents) if parent.exists())
    own = existing / f".headrace-doctor-{uuid.uuid4().hex[:8]}"
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
