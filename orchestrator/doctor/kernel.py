"""Settings of the kernel that decide how a Redis on this machine fares: overcommit, huge pages, queues of connections."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.doctor.finding import Finding, note, ok, warning

PROC, SYS = Path("/proc"), Path("/sys")
BACKLOG = 511
"""Connections that a Redis lets wait, by its own default; the kernel cuts it to somaxconn."""


def check_overcommit(proc: Path = PROC) -> Iterator[Finding]:
    value = int((proc / "sys/vm/overcommit_memory").read_text())
    why = "the server forks to rewrite its append-only file, and the fork asks for all its memory once more"
    remedy = "sudo sysctl vm.overcommit_memory=1"
    if value == 2:
        yield warning("overcommit", "vm.overcommit_memory = 2 (never)", why, remedy)
    elif value == 0:
        yield note("overcommit", "vm.overcommit_memory = 0 (by guess)", f"{why}; refused when memory is short", remedy)
    else:
        yield ok("overcommit", "vm.overcommit_memory = 1")


def check_huge_pages(sys: Path = SYS) -> Iterator[Finding]:
    try:
        text = (sys / "kernel/mm/transparent_hugepage/enabled").read_text()
    except FileNotFoundError:  # a kernel without them
        return
    chosen = text.partition("[")[2].partition("]")[0]
    if chosen == "always":
        yield note(
            "huge pages",
            "always",
            "after the server's fork each write copies 2 MiB in place of 4 KiB: memory and pauses",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        )
    else:
        yield ok("huge pages", chosen)


def check_backlog(proc: Path = PROC) -> Iterator[Finding]:
    value = int((proc / "sys/net/core/somaxconn").read_text())
    if value < BACKLOG:
        why = "many workers that connect at once are refused, and try again"
        yield note("somaxconn", str(value), why, f"sudo sysctl net.core.somaxconn={BACKLOG}")
    else:
        yield ok("somaxconn", str(value))
