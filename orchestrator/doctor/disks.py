"""Disks that a run writes to: room and inodes."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.disk import LOW_BYTES, size
from orchestrator.doctor.finding import Finding, error, ok, warning

FEW_BYTES = 5_000_000_000
"""Free, for a run whose size is not known; with a recipe the run's own account says more."""
FEW_INODES = 10_000
"""Files that a few hundred steps of a small run leave, ten times over."""


def check_disks(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """`folders`: by what they are to the run (run.root, /tmp). Of two on one filesystem the first is looked at."""
    seen: set[int] = set()
    for what, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        device = os.stat(existing).st_dev
        if device not in seen:
            seen.add(device)
            yield from _check(f"disk of {what}", existing)


def _check(name: str, folder: Path) -> Iterator[Finding]:
    facts = os.statvfs(folder)
    free = facts.f_bavail * facts.f_frsize
    found = f"{size(free)} free at {folder}"
    remedy = "free space there (`headrace runs ls` shows what runs hold), or name another disk"
    if free < LOW_BYTES:
        yield error(name, found, f"a run stops below {size(LOW_BYTES)}", remedy)
    elif free < FEW_BYTES:
        yield warning(name, found, "versions, checkpoints and the ledger of a run fill it", remedy)
    else:
        yield ok(name, found)
    if facts.f_files and facts.f_favail < FEW_INODES:  # 0: a filesystem that has no fixed number
        found = f"room for {facts.f_favail} files at {folder}"
        yield warning(f"{name}: files", found, "each version, checkpoint and batch is some files", remedy)
