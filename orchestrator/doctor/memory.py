"""Memory: of the machine, of the control group, shared memory, and what has been swapped out."""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.disk import size
from orchestrator.doctor.finding import Finding, error, note, ok, warning

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
SHARED = Path("/dev/shm")
LEAST_BYTES = 6_000_000_000
"""Of the smallest run that is tested (an engine, a scorer, two ranks, driver and server): 1.9 + 0.9 + 2 · 0.85 + 0.5 GB."""
SWAPPED_BYTES = 1_000_000_000
"""In use: above what a machine at rest puts aside."""


def meminfo(path: Path = MEMINFO) -> dict[str, int]:
    """Bytes by name."""
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        number, *unit = rest.split()
        found[name] = int(number) * (1024 if unit else 1)
    return found


def limit_bytes(cgroup: Path = CGROUP) -> int | None:
    """Of the control group, None without one; of version 2, else of version 1."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroup / name).read_text().strip()
        except FileNotFoundError:
            continue
        return None if text == "max" or int(text) >= 2**60 else int(text)  # version 1 writes a huge number for none
    return None


def check_memory(*, info: Path = MEMINFO, cgroup: Path = CGROUP) -> Iterator[Finding]:
    facts, limit = meminfo(info), limit_bytes(cgroup)
    total, free = facts["MemTotal"], facts["MemAvailable"]
    limited = limit is not None and limit < total
    usable = min(total, limit or total)
    found = f"{size(usable)}{' by control group' if limited else ''}, {size(min(free, usable))} free"
    remedy = "end what else runs here, or take a larger machine; `headrace run RECIPE --dry-run` says what a run needs"
    why = f"the smallest run needs about {size(LEAST_BYTES)}, and the kernel kills what goes beyond"
    if usable < LEAST_BYTES / 2:
        yield error("memory", found, why, remedy)
    elif min(free, usable) < LEAST_BYTES:
        yield warning("memory", found, why, remedy)
    else:
        yield ok("memory", found)


def check_swap(info: Path = MEMINFO) -> Iterator[Finding]:
    facts = meminfo(info)
    used = facts["SwapTotal"] - facts["SwapFree"]
    if used > SWAPPED_BYTES:
        yield warning(
            "swap",
            f"{size(used)} swapped out",
            "a process that waits for the disk misses its heartbeat, and is restarted",
            "end what holds the memory; sudo swapoff -a where nothing else needs it",
        )
    else:
        yield ok("swap", f"{size(used)} swapped out")


def check_shared(*, needed_bytes: int, path: Path = SHARED) -> Iterator[Finding]:
    """Of /dev/shm, where Ray keeps its object store, and NCCL its rings between the GPUs of a machine."""
    name = "shared memory"
    try:
        facts = os.statvfs(path)
    except FileNotFoundError:
        yield note(name, f"there is no {path}", "Ray writes its object store to /tmp in its place, which is slow")
        return
    free = facts.f_bavail * facts.f_frsize
    if free < needed_bytes:
        yield warning(
            name,
            f"{size(free)} free at {path}",
            f"Ray wants {size(needed_bytes)} there (ray.object_store_mib), and NCCL its buffers; else Ray falls back on /tmp",
            "a container: docker run --shm-size=1g, or an emptyDir with medium Memory at /dev/shm; else remove what is there",
        )
    else:
        yield ok(name, f"{size(free)} free at {path}")
