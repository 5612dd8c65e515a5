"""Limits of this process: open files, processes and threads, core dumps."""

import resource
from collections.abc import Iterator
from pathlib import Path

from orchestrator.doctor.finding import Finding, error, note, ok, warning

CGROUP = Path("/sys/fs/cgroup")
FEW_FILES, LEAST_FILES = 4096, 1024
"""Open files of one process: Ray's own daemons hold some for each worker; below the second one they fail as they start."""
FEW_TASKS, LEAST_TASKS = 4096, 1024
"""Processes and threads of this user: Ray's daemons, engines and ranks start hundreds, and a node holds several of them."""


def check_files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_shown(soft)} of at most {_shown(hard)}"
    why = "sockets between Ray, workers and stores count, and the one too many ends a process"
    if _number(hard) < LEAST_FILES or _number(soft) < LEAST_FILES // 2:
        yield error("open files", found, why, _raise("-n", hard, "nofile", 65536))
    elif _number(soft) < FEW_FILES:
        yield warning("open files", found, why, _raise("-n", hard, "nofile", 65536))
    else:
        yield ok("open files", found)


def check_tasks(cgroup: Path = CGROUP) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    limit, found = _number(soft), f"{_shown(soft)} processes and threads"
    remedy = _raise("-u", hard, "nproc", 65536)
    grouped = _pids(cgroup)
    if grouped is not None and grouped < limit:
        limit, found = grouped, f"{grouped:.0f} processes and threads by control group"
        remedy = "raise the container's pids limit (docker run --pids-limit=-1, podPidsLimit of the kubelet)"
    why = "a thread that cannot be started ends its process, in the middle of a run too"
    if limit < LEAST_TASKS:
        yield error("processes", found, why, remedy)
    elif limit < FEW_TASKS:
        yield warning("processes", found, why, remedy)
    else:
        yield ok("processes", found)


def check_core_dumps() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    if soft:
        yield note(
            "core dumps",
            f"on ({_shown(soft)} bytes)",
            "a process that crashes writes its memory to disk: gigabytes, with passwords and prompts in it",
            "ulimit -c 0 before the run, unless you look for a crash",
        )
    else:
        yield ok("core dumps", "off")


def _pids(cgroup: Path) -> float | None:
    try:
        text = (cgroup / "pids.max").read_text().strip()
    except FileNotFoundError:
        return None
    return None if text == "max" else float(text)


def _raise(flag: str, hard: int, name: str, enough: int) -> str:
    if _number(hard) >= enough:
        return f"ulimit {flag} {enough} before the run"
    unit = f"Limit{name.upper()}={enough}"
    return f"let root allow {enough}: {name} in /etc/security/limits.conf, {unit} in a systemd unit, --ulimit {name}={enough} of docker"


def _number(limit: int) -> float:
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
