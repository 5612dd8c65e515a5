"""Reads a file of lines as it grows: each line once, and only whole ones."""

import os
from pathlib import Path

_CHUNK_BYTES = 1 << 20
"""Read at once, at most: so much of a file that has grown by more is in memory at a time."""


class Tail:
    """new() gives the lines that were added since the last call; a file that is not there yet has none."""

    def __init__(self, path: Path, *, last_bytes: int | None = None) -> None:
        """`last_bytes`: of what is there at the first look only so much is read, from the next line on."""
        self.path = path
        self._last_bytes = last_bytes
        self._offset = 0
        self._inode: int | None = None
        self._rest = b""
        """Of a line whose end has not been written."""

    def new(self) -> list[str]:
        """Lines without their ends; bytes that are no UTF-8 show as replacement characters. OSError: it cannot be read."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            found = os.fstat(file.fileno())
            if self._inode is None and self._last_bytes is not None and found.st_size > self._last_bytes:
                file.seek(found.st_size - self._last_bytes - 1)
                file.readline()  # the end of a line that began earlier
                self._offset = file.tell()
            elif self._inode not in (None, found.st_ino) or found.st_size < self._offset - len(self._rest):
                self._offset, self._rest = 0, b""  # another file, or one that was emptied
            elif found.st_size < self._offset:  # a line that a full disk did not take whole was taken back
                self._rest = self._rest[: found.st_size - self._offset]
                self._offset = found.st_size
            self._inode = found.st_ino
            file.seek(self._offset)
            lines: list[bytes] = []
            while chunk := file.read(_CHUNK_BYTES):
                *whole, self._rest = (self._rest + chunk).split(b"\n")
                lines += whole
            self._offset = file.tell()
        return [line.decode(errors="replace") for line in lines]
