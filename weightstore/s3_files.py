"""Whole files to and from an object store, in parts that go side by side."""

import errno
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from weightstore.blobs import StoreError, reported
from weightstore.s3_client import Absent, S3Client

logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")

MOST_PARTS = 10_000
"""S3's limit for one object."""


def upload(
    client: S3Client, pool: ThreadPoolExecutor, key: str, path: Path, *, metadata: Mapping[str, str], part_bytes: int
) -> None:
    """Create the object, in parts. Taken: it exists. Conflict, Absent: the upload is gone, and its fate unknown.

    The condition stands on the completion, which makes the object appear; an upload that does not end so is aborted.
    """
    named = client.named(key)
    begun = client.request("write", key, lambda s3: s3.create_multipart_upload(**named, Metadata=dict(metadata)))
    named |= {"UploadId": begun["UploadId"]}
    size = path.stat().st_size
    spans = list(enumerate(_spans(size, max(part_bytes, -(-size // MOST_PARTS))), start=1))

    def send(part: tuple[int, tuple[int, int]]) -> dict[str, Any]:
        number, (start, end) = part
        data = _read(path, start, end)
        answer = client.request(
            "write", key, lambda s3: s3.upload_part(**named, PartNumber=number, Body=data, ContentLength=len(data))
        )
        sums = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
        return {"PartNumber": number, "ETag": answer["ETag"], **sums}  # the store asks for the sums that it gave

    try:
        parts = _side_by_side(pool, send, spans)
        client.request(
            "write",
            key,
            lambda s3: s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts}, IfNoneMatch="*"),
            at_once=("absent", "taken", "conflict"),  # after a conflict the parts have to be sent again
        )
    except BaseException:
        _abort(client, key, named)
        raise


def temporary_folder() -> Path:
    """This user's own below the system's temporary folder (TMPDIR)."""
    folder = Path(tempfile.gettempdir(), f"headrace-{os.getuid()}")
    with reported("write", folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(errno.EACCES, "it belongs to another user", str(folder))
    return folder


def download(client: S3Client, pool: ThreadPoolExecutor, key: str, path: Path, *, size: int, part_bytes: int) -> None:
    """Write the object's bytes to `path`. Absent: it is gone."""
    with reported("write", path):
        with path.open("wb") as file:
            os.truncate(file.fileno(), size)

        def fetch(span: tuple[int, int]) -> None:
            start, end = span
            _write(path, start, client.request("read", key, lambda s3: _range(client, s3, key, start, end)))

        _side_by_side(pool, fetch, list(_spans(size, part_bytes)))


def _range(client: S3Client, s3: Any, key: str, start: int, end: int) -> bytes:
    answer = s3.get_object(**client.named(key), Range=f"bytes={start}-{end - 1}")
    return bytes(answer["Body"].read())


def _side_by_side(pool: ThreadPoolExecutor, work: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """In order; raises the first error once nothing of it runs any more."""
    tasks = [pool.submit(work, item) for item in items]
    try:
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        wait(tasks)


def _abort(client: S3Client, key: str, named: Mapping[str, str]) -> None:
    """Else its parts would be kept, and paid for, until the bucket's rule for abandoned uploads deletes them."""
    try:
        client.request("abort the upload of", key, lambda s3: s3.abort_multipart_upload(**named), patient=False)
    except Absent:
        return
    except StoreError as error:
        logger.warning("upload not aborted", extra={"key": key, "error": str(error)})


def _spans(size: int, part_bytes: int) -> Iterable[tuple[int, int]]:
    """[from, to) of each part."""
    return ((start, min(start + part_bytes, size)) for start in range(0, size, part_bytes))


def _read(path: Path, start: int, end: int) -> bytes:
    with reported("read", path), path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _write(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)
