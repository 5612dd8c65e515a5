"""A folder for temporaries whose leftovers are recognised after a crash, whatever their age.

Layout: `{parent}/{token}.lock`, held with flock(2) while the owner lives, and `{parent}/{token}/` for its files. The
kernel releases the lock when the owner dies, however it dies; so a lock that can be taken marks leftovers. A
filesystem must offer locks that hold on all nodes, or none at all (then nothing is ever cleaned); Lustre's
`localflock` is neither.
"""

import errno
import fcntl
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""What flock(2) says on a filesystem without locks."""


class Scratch:
    """One owner's temporaries; lives as long as this object."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self._lock, self.folder = _claim(parent)
        self.folder.mkdir()

    def new_path(self) -> Path:
        """A name that nobody else uses."""
        return self.folder / f".tmp-{os.getpid()}-{secrets.token_hex(8)}"


def remove_abandoned(parent: Path) -> int:
    """Delete the folders of dead owners; returns how many."""
    removed = 0
    for path in sorted(parent.glob("*.lock")):
        try:
            lock = path.open("r+b")  # never creates: a claim tells by the file's absence that it was taken away
        except FileNotFoundError:  # another process cleaned it between the listing and here
            continue
        with lock:
            if _try_lock(lock) != "taken":
                continue
            folder = path.with_suffix("")
            if folder.exists():
                shutil.rmtree(folder)
            path.unlink(missing_ok=True)
            removed += 1
            logger.info("abandoned temporaries removed", extra={"folder": str(folder)})
    return removed


def _claim(parent: Path) -> tuple[IO[bytes], Path]:
    while True:
        path = parent / f"{secrets.token_hex(8)}.lock"
        lock = path.open("ab")
        # Between open and flock a cleaner may have taken the file for a leftover: then it is busy or already unlinked.
        if _try_lock(lock) != "busy" and path.exists():
            return lock, path.with_suffix("")
        lock.close()


def _try_lock(file: IO[bytes]) -> str:
    """taken | busy | unsupported"""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "busy"
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return "unsupported"
    return "taken"
