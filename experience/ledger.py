"""The ledger: batch k of a lineage is one immutable blob, and creating it is the commit.

    ledger/{lineage}/{number:08d}.batch  =  SHA-256 of the rest, 32 bytes | BatchRecord in wire form

Who commits first wins, whatever its epoch; a loser gets the winner's record and goes on with that.
"""

import hashlib
import re
from typing import Protocol

from experience.schema import BatchRecord
from experience.wire import decode, encode

_NAME = re.compile(r"(\d{8,})\.batch")
_DIGEST_BYTES = 32


class BlobStore(Protocol):
    """What the ledger asks of a store: immutable blobs by key, whole or invisible."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Durable and atomic; False: the key exists, and nothing was written."""

    def get(self, key: str) -> bytes:
        """KeyError if absent."""

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> list[str]:
        """Keys below the folder `prefix`."""

    def delete(self, key: str) -> None:
        """Harmless if absent."""


class Ledger:
    """The committed batches of one lineage."""

    def __init__(self, store: BlobStore, lineage: int) -> None:
        self._store = store
        self._lineage = lineage
        self._folder = f"ledger/{lineage}"

    def commit(self, record: BatchRecord) -> BatchRecord:
        """Make the batch history; returns what is history under its number: this record, or an earlier winner's.

        ValueError: the lineage is not ours, or the batch does not follow one that is there.
        """
        if record.lineage != self._lineage:
            raise ValueError(f"batch {record.number} is of lineage {record.lineage}, this ledger is of {self._lineage}")
        key = self._key(record.number)
        if not self._store.exists(key) and not self._may_follow(record.number):
            raise ValueError(f"{key} does not follow the newest batch, {self.newest()}: commit in order, from 1")
        data = encode(record)
        if self._store.put_if_absent(key, hashlib.sha256(data).digest() + data):
            return record
        winner = self.read(record.number)
        assert winner is not None, "a committed batch vanished"
        return winner

    def read(self, number: int) -> BatchRecord | None:
        """The batch, or None if it was not committed (or pruned). ValueError names the key of a damaged blob."""
        key = self._key(number)
        try:
            blob = self._store.get(key)
        except KeyError:
            return None
        digest, data = blob[:_DIGEST_BYTES], blob[_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError(f"{key}: {len(blob)} bytes that do not match their checksum; restore it from a copy")
        try:
            record = decode(data, BatchRecord)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        if (record.lineage, record.number) != (self._lineage, number):
            raise ValueError(f"{key}: holds batch {record.number} of lineage {record.lineage}")
        return record

    def numbers(self) -> list[int]:
        """What is there, ascending."""
        names = (_NAME.fullmatch(key.rpartition("/")[2]) for key in self._store.list(self._folder))
        return sorted(int(name[1]) for name in names if name)

    def newest(self) -> int:
        """The highest committed batch; 0 = none."""
        return max(self.numbers(), default=0)

    def prune(self, keep_from: int) -> None:
        """Delete the batches below `keep_from`, the oldest first, so that what stays has no gap. The newest stays."""
        numbers = self.numbers()
        for number in numbers[:-1]:
            if number < keep_from:
                self._store.delete(self._key(number))

    def _may_follow(self, number: int) -> bool:
        """The batch before is there. A zombie's long pruned number has none, so it cannot bring one back."""
        return self._store.exists(self._key(number - 1)) if number > 1 else number == 1 and not self.numbers()

    def _key(self, number: int) -> str:
        return f"{self._folder}/{number:08d}.batch"
