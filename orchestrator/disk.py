"""A disk that fills up: seen before it is full, known by its error codes, and never met again by a restart.

What is written is whole or invisible, so a full disk costs no data: a resume trains the steps since the newest
checkpoint again, from the ledger. It must only end the run at once, with a cause that names the path.
"""

import errno
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from io import RawIOBase
from pathlib import Path

log = logging.getLogger(__name__)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a filesystem says when it, or the user's quota of it, is full."""

LOW_BYTES = 64 * 2**20
"""Free, at the least: what the server's append-only file, ledger, logs and status need to end a run in good order."""

LOOK_S = 2.0
"""Between two looks at what is free; a disk fills by versions and checkpoints, which take longer than that to make."""


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def append_whole(file: RawIOBase, data: bytes) -> None:
    """Add `data` at the end of a file that only this process writes, or nothing of it: a full disk takes a part first."""
    start = file.seek(0, os.SEEK_END)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except BaseException:
        file.truncate(start)
        raise


class LowWater:
    """low(now): the one-line cause to stop for, once one of the folders' filesystems has hardly any room left."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._looked_at = -LOOK_S

    def low(self, now: float) -> str | None:
        if now - self._looked_at < LOOK_S:
            return None
        self._looked_at = now
        return shortage(self._folders)


def shortage(folders: Iterable[Path]) -> str | None:
    """The cause, with its remedy, if one of these folders has less than LOW_BYTES free."""
    for folder in folders:
        free = free_bytes(folder)
        if free < LOW_BYTES:
            return (
                f"{folder}: the disk is nearly full, {free / 1e6:.0f} MB are free and a run stops below "
                f"{LOW_BYTES / 1e6:.0f} MB; free space there (`headrace runs ls` shows what runs hold), then resume"
            )
    return None


def free_bytes(folder: Path) -> int:
    """Free for this user where `folder` is, or will be made."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def disk_room(folders: Mapping[str, Path]) -> dict[str, tuple[int, int]]:
    """By name of a folder: bytes free to this user and in all, of the disk that it is on; without those that do not answer."""
    found = {}
    for name, folder in folders.items():
        try:
            usage = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists()))
        except OSError as error:
            log.debug("disk not asked", extra={"folder": str(folder), "error": str(error)})
            continue
        found[name] = (usage.free, usage.total)
    return found


def bytes_below(folder: Path) -> int:
    """Allocated to the files below a folder, hard links once; symbolic links are not followed. 0 where there is none."""
    seen: set[tuple[int, int]] = set()
    count = 0
    for at, folders, names in os.walk(folder):
        for name in (*names, *folders):
            try:
                found = os.lstat(os.path.join(at, name))
            except FileNotFoundError:  # a run that lives deletes what it keeps no longer
                continue
            if found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                count += found.st_blocks * 512  # the unit of st_blocks, whatever the filesystem's blocks
    return count


def size(count: float) -> str:
    """For people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:  # from there on three digits show 1000
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if count < 999.5 else f"{count:.0f} TB"
