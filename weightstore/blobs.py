"""Immutable blobs under string keys: the ground on which weights, checkpoints, ledger and epochs stand.

A blob is whole or invisible. `put_if_absent` is the commit of everything in a run: of all that try one key, exactly
one gets True, whatever dies meanwhile.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from weightstore.scratch import Scratch, remove_abandoned

SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
"""One part of a key. A leading dot is ours (temporaries); the rest is what every filesystem and S3 take verbatim."""

REMEDIES = {
    errno.ENOSPC: "free space there, or keep fewer versions and checkpoints",
    errno.EDQUOT: "raise the quota, or keep fewer versions and checkpoints",
    errno.EACCES: "check the owner and mode of the folder, or set another store.url",
    errno.EPERM: "the filesystem must allow hard links and writing by this user, or set another store.url",
    errno.EROFS: "mount it writable, or set another store.url",
    errno.EXDEV: "write the file under scratch() first: a hard link cannot leave its filesystem",
}


class StoreError(OSError):
    """The store could not be read or written: one line with the path, the cause and the remedy."""

    def __str__(self) -> str:
        return str(self.strerror)


class BlobDamaged(ValueError):
    """The bytes of a blob are not those that were put: names the blob."""


def checked(key: str) -> str:
    """The key. ValueError: it is none."""
    if not all(SEGMENT.fullmatch(part) for part in key.split("/")):
        raise ValueError(
            f"blob key {key!r}: must be a relative path of letters, digits and ._-, no part starting with a dot"
        )
    return key


class BlobStore(Protocol):
    """Blobs by key. A key is `part/part/...`, parts of letters, digits, `._-`, none starting with a dot."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create the blob, durably; False: it exists, and stays as it is."""

    def put_file_if_absent(self, key: str, path: Path) -> bool:
        """The same for a file under `scratch()`, which is consumed: it is gone afterwards, whoever won."""

    def replace(self, key: str, data: bytes) -> None:
        """Create or overwrite atomically. Only for a record that one epoch owns: between writers the last one wins."""

    def get(self, key: str) -> bytes:
        """KeyError: no such blob. BlobDamaged: what was read is not what was put, where the store can tell."""

    def size(self, key: str) -> int:
        """Bytes. KeyError: no such blob."""

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str) -> list[str]:
        """Keys below the folder `prefix` at any depth, sorted; "" lists all."""

    def delete(self, key: str) -> None:
        """Deleting what is not there is harmless."""

    def local_file(self, key: str) -> AbstractContextManager[Path]:
        """A local file with the blob's bytes, to be read inside the `with`; a mapping of it into memory stays valid after.

        KeyError: no such blob. BlobDamaged: what was read is not what was put.
        """

    def where(self, key: str) -> str:
        """The blob's path or address, for messages."""

    def scratch(self) -> Path:
        """A new path for a temporary file to be given to `put_file_if_absent`; valid while this store lives."""


class FileBlobStore:
    """Blobs as files below `root`: local disk, or a POSIX filesystem that all nodes share.

    Commit: temporary file, fsync, link(2) to the final name, fsync of the folder. rename(2) would replace the winner.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scratch: Scratch | None = None

    def put_if_absent(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        if self._settled(target):
            return False
        return self.put_file_if_absent(key, self._write(data))

    def put_file_if_absent(self, key: str, path: Path) -> bool:
        return _place(path, self._path(key), _link)

    def replace(self, key: str, data: bytes) -> None:
        target = self._path(key)
        _place(self._write(data), target, _rename)

    def get(self, key: str) -> bytes:
        with self._found(key) as path:
            return path.read_bytes()

    def size(self, key: str) -> int:
        with self._found(key):
            return self._file(key).stat().st_size

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str) -> list[str]:
        folder = self._path(prefix) if prefix else self.root
        keys = []
        with reported("list", folder):
            for base, folders, files in os.walk(folder, onerror=_raise_unless_gone):
                folders[:] = [name for name in folders if not name.startswith(".")]
                keys += [str(Path(base, name).relative_to(self.root)) for name in files if not name.startswith(".")]
        return sorted(keys)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with reported("delete", path):
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root or not _remove_empty(folder):
                    return

    @contextmanager
    def local_file(self, key: str) -> Iterator[Path]:
        with self._found(key):
            path = self._file(key)
        yield path

    def where(self, key: str) -> str:
        return str(self._path(key))

    def scratch(self) -> Path:
        if self._scratch is None:
            folder = self.root / ".scratch"
            with reported("write", folder):
                remove_abandoned(folder)
                self._scratch = Scratch(folder)
        return self._scratch.new_path()

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    def _file(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise KeyError(key)
        return path

    def _settled(self, target: Path) -> bool:
        """Somebody won already: saves writing the data. Durable before it is reported, as after a lost race."""
        with reported("read", target):
            if not target.is_file():
                return False
            _fsync(target.parent)
            return True

    def _write(self, data: bytes) -> Path:
        path = self.scratch()
        with reported("write", path):
            try:
                path.write_bytes(data)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return path

    @contextmanager
    def _found(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        with reported("read", path):
            try:
                yield path
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise KeyError(key) from error


def _place(path: Path, target: Path, move: Callable[[Path, Path], bool]) -> bool:
    """Give the durable content of `path` its final name, durably; `path` is gone afterwards."""
    with reported("write", target):
        try:
            _fsync(path)
            while True:
                try:
                    _make_folder(target.parent)
                    won = move(path, target)
                except FileNotFoundError:
                    if not path.exists():
                        raise
                    continue  # a delete has just removed the emptied folder: make it again
                _fsync(target.parent)  # the loser too: it acts on what it found
                return won
        finally:
            path.unlink(missing_ok=True)


def _rename(path: Path, target: Path) -> bool:
    path.replace(target)
    return True


def _link(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except FileExistsError:
        # NFS: the reply to our own link may have been lost and the call sent twice; then our file has two names.
        return path.stat().st_nlink == 2
    return True


def _make_folder(folder: Path) -> None:
    """mkdir -p, each new entry durable."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):  # not mkdir(exist_ok=True): it raises when a delete removes the folder meanwhile
        folder.mkdir()
    _fsync(folder.parent)


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        if error.errno == errno.ENOENT:  # another process removed it first
            return True
        raise
    return True


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_unless_gone(error: OSError) -> None:
    """For os.walk, which swallows errors by default; a folder that vanished has no keys."""
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def reported(action: str, path: Path) -> Iterator[None]:
    """Turn an error of the filesystem into the StoreError that says what was tried, where, and what helps."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "check the filesystem and its mount")
        raise StoreError(error.errno, f"cannot {action} {path}: {error.strerror}; {remedy}") from error
