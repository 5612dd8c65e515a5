"""Blobs as objects in a bucket, committed by conditional puts (`If-None-Match: *`).

Every object carries, as metadata, the SHA-256 of its content and the id of the one put that made it. The id tells a lost
race from a lost answer: who is told that the object exists already, and finds its own id there, has won.
"""

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from weightstore.address import S3Address
from weightstore.blobs import SEGMENT, BlobDamaged, checked, reported
from weightstore.s3_client import CONDITIONS, Absent, Conflict, S3Client, judged
from weightstore.s3_files import download, temporary_folder, upload
from weightstore.scratch import Scratch, remove_abandoned

T = TypeVar("T")

SHA256, PUBLICATION = "headrace-sha256", "headrace-publication"
"""Names of the metadata."""

PART_BYTES = 16 * 1024**2
"""A larger file goes in parts of this size: large enough for full speed, small enough to hold one a thread in memory."""

READS = 3
"""Of a blob whose hash is wrong before it counts as damaged: what broke on the way comes whole the next time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    size: int
    sha256: str
    """Hex; "" where another program wrote the object."""
    publication: str


class S3BlobStore:
    """Blobs below `address`. Files pass through `scratch_folder`, on local disk (None: the system's temporary folder).

    `threads`: parts on their way at once. `retry_s`: how long a request is tried again.
    """

    def __init__(
        self,
        address: S3Address,
        *,
        threads: int,
        retry_s: float,
        scratch_folder: Path | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        # Threads of the caller fetch files at once, as many as threads here fetch their parts; others write meanwhile.
        self._client = S3Client(address, connections=2 * threads + 4, retry_s=retry_s)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="s3-parts")
        self._scratch_folder, self._part_bytes = scratch_folder, part_bytes
        self._lock = threading.Lock()
        self._scratch: Scratch | None = None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        metadata = _metadata(hashlib.sha256(data).hexdigest())
        put = {**self._client.named(checked(key)), "Body": data, "Metadata": metadata, "IfNoneMatch": "*"}
        return self._create(key, metadata, lambda s3: s3.put_object(**put))

    def put_file_if_absent(self, key: str, path: Path) -> bool:
        checked(key)
        try:
            with reported("read", path):
                size = path.stat().st_size
                data = path.read_bytes() if size <= self._part_bytes else None
            if data is not None:
                return self.put_if_absent(key, data)
            return not self.exists(key) and self._put_in_parts(key, path)  # the look saves a vain upload
        finally:
            path.unlink(missing_ok=True)

    def replace(self, key: str, data: bytes) -> None:
        metadata = _metadata(hashlib.sha256(data).hexdigest())
        put = {**self._client.named(checked(key)), "Body": data, "Metadata": metadata}
        self._client.request("write", key, lambda s3: s3.put_object(**put))

    def get(self, key: str) -> bytes:
        named = self._client.named(checked(key))

        def read(s3: Any) -> tuple[bytes, Head]:
            answer = s3.get_object(**named)
            return answer["Body"].read(), _head(answer)

        def fetch() -> tuple[bytes, Head, str]:
            data, head = self._client.request("read", key, read)
            return data, head, hashlib.sha256(data).hexdigest()

        return self._undamaged(key, fetch)

    def size(self, key: str) -> int:
        return self._look(key).size

    def exists(self, key: str) -> bool:
        try:
            self._look(key)
        except KeyError:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        above = len(self._client.address.object_key(""))
        found = (entry["Key"][above:] for page in self._pages(prefix) for entry in page.get("Contents", ()))
        return sorted(key for key in found if all(map(SEGMENT.fullmatch, key.split("/"))))

    def delete(self, key: str) -> None:
        named = self._client.named(checked(key))
        self._client.request("delete", key, lambda s3: s3.delete_object(**named))

    @contextmanager
    def local_file(self, key: str) -> Iterator[Path]:
        path = self.scratch()

        def fetch() -> tuple[Path, Head, str]:
            head = self._look(key)
            download(self._client, self._pool, key, path, size=head.size, part_bytes=self._part_bytes)
            return path, head, _file_sha256(path)

        try:
            yield self._undamaged(key, fetch)
        finally:
            path.unlink(missing_ok=True)

    def where(self, key: str) -> str:
        return self._client.where(checked(key))

    def scratch(self) -> Path:
        with self._lock:
            if self._scratch is None:
                folder = self._scratch_folder or temporary_folder()
                with reported("write", folder):
                    remove_abandoned(folder)
                    self._scratch = Scratch(folder)
            return self._scratch.new_path()

    def prove_conditional_puts(self) -> None:
        """Refuse a store that takes the condition and ignores it: two writers could both commit. ValueError."""
        key = f"probe/{uuid.uuid4().hex}"
        path = self.scratch()
        try:
            path.write_bytes(b"third")
            puts = {
                "PutObject": lambda: [self.put_if_absent(key, b"first"), self.put_if_absent(key, b"second")],
                "CompleteMultipartUpload": lambda: [True, self._put_in_parts(key, path)],
            }
            ignored = next((operation for operation, put in puts.items() if put() != [True, False]), None)
        finally:
            path.unlink(missing_ok=True)
        self.delete(key)  # not after an error, which it would meet again and hide
        if ignored:
            raise ValueError(
                f"the store ignores If-None-Match in {ignored}, on which every commit stands; {CONDITIONS}"
            )

    def _put_in_parts(self, key: str, path: Path) -> bool:
        metadata = _metadata(_file_sha256(path))
        return self._create(
            key,
            metadata,
            lambda _: upload(self._client, self._pool, key, path, metadata=metadata, part_bytes=self._part_bytes),
        )

    def _create(self, key: str, metadata: Mapping[str, str], send: Callable[[Any], object]) -> bool:
        def attempt(s3: Any) -> bool:
            try:
                send(s3)
            except Exception as error:
                if judged(error) not in ("taken", "absent"):
                    raise
                return self._is_ours(key, metadata[PUBLICATION])
            return True

        return self._client.request("write", key, attempt)

    def _is_ours(self, key: str, publication: str) -> bool:
        try:
            return self._look(key).publication == publication
        except KeyError:  # deleted since it was found, or the upload is gone and made nothing
            raise Conflict(key) from None

    def _look(self, key: str) -> Head:
        named = self._client.named(checked(key))
        try:
            return _head(self._client.request("read", key, lambda s3: s3.head_object(**named)))
        except Absent:
            raise KeyError(key) from None

    def _undamaged(self, key: str, fetch: Callable[[], tuple[T, Head, str]]) -> T:
        """fetch() gives what was read, what the store says of it, and the SHA-256 of what was read."""
        for _ in range(READS):
            try:
                read, head, found = fetch()
            except Absent:
                raise KeyError(key) from None
            if head.sha256 in ("", found):
                return read
        raise BlobDamaged(f"{self.where(key)}: expected sha256 {head.sha256}, found {found}")

    def _pages(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        folder = self._client.address.object_key(f"{checked(prefix)}/" if prefix else "")
        asked = {"Bucket": self._client.address.bucket, "Prefix": folder}
        while True:
            page = self._client.request("list", prefix, lambda s3: s3.list_objects_v2(**asked))
            yield page
            if not page["IsTruncated"]:
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]


def _metadata(sha256: str) -> dict[str, str]:
    return {SHA256: sha256, PUBLICATION: uuid.uuid4().hex}


def _head(answer: Mapping[str, Any]) -> Head:
    metadata = {name.lower(): value for name, value in answer["Metadata"].items()}  # some stores write them in capitals
    return Head(
        size=answer["ContentLength"], sha256=metadata.get(SHA256, ""), publication=metadata.get(PUBLICATION, "")
    )


def _file_sha256(path: Path) -> str:
    with reported("read", path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
