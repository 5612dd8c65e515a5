"""Cores: how many there are, how many this process may use, and what they can."""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.doctor.finding import Finding, note, ok, warning

CGROUP = Path("/sys/fs/cgroup")
NODES = Path("/sys/devices/system/node")
CPUINFO = Path("/proc/cpuinfo")
FEW = 2
"""Cores of the machine that the tests run on: below it, stages that should overlap take turns."""


def quota_cores(cgroup: Path = CGROUP) -> float | None:
    """Cores' worth of time that the control group may use, None without a limit; of version 2, else of version 1."""
    try:
        share, period = (cgroup / "cpu.max").read_text().split()
        return None if share == "max" else int(share) / int(period)
    except FileNotFoundError:
        pass
    try:
        quota = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((cgroup / "cpu/cpu.cfs_period_us").read_text())
    except FileNotFoundError:
        return None


def check_cores(*, allowed: int | None = None, cgroup: Path = CGROUP) -> Iterator[Finding]:
    """`allowed`: cores that the scheduler gives this process; None = ask it."""
    allowed = len(os.sched_getaffinity(0)) if allowed is None else allowed
    there, quota = os.cpu_count() or allowed, quota_cores(cgroup)
    found = f"{allowed} of {there}" if allowed < there else str(there)
    usable = min(allowed, quota or allowed)
    if quota is not None and quota < allowed:
        yield note(
            "cores",
            f"{found}, and time for {quota:g}",
            "libraries start a thread a core that they see, and all wait when the time is used up",
            f"keep the threads of generation.engine, training and scoring within {max(1, int(quota))} in sum",
        )
    if usable < FEW:
        yield warning(
            "cores",
            f"{found}, {usable:g} usable",
            "generation and training take turns in place of overlapping, and heartbeats may be missed",
            "give it two cores, or raise supervise.heartbeat_s and training.collective_timeout_s",
        )
    elif quota is None or quota >= allowed:
        yield ok("cores", found)


def check_flags(cpuinfo: Path = CPUINFO) -> Iterator[Finding]:
    """Instructions that engines and scorers on a CPU live by."""
    lines = cpuinfo.read_text().splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    name = "instructions"
    if not flags:
        return
    known = [
        one for one in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16") if one in flags
    ]
    found = " ".join(known) or "none of AVX2, AVX-512, AMX, NEON"
    if not {"avx2", "avx512f", "asimd"} & set(flags):
        yield warning(name, found, "vLLM's engine on CPU does not start without them", "use another machine, or a GPU")
    elif not {"avx512_bf16", "amx_bf16", "bf16"} & set(flags):
        yield note(
            name,
            found,
            "bfloat16 is emulated, and slower than float32; of no matter on a GPU",
            "on CPU, set training.dtype=float32 and generation.engine.dtype=float32",
        )
    else:
        yield ok(name, found)


def check_numa(nodes: Path = NODES) -> Iterator[Finding]:
    count = len(list(nodes.glob("node[0-9]*")))
    if count > 1:
        yield note(
            "numa",
            f"{count} memory nodes",
            "a process that moves between them reads its weights across",
            "on CPU, keep each worker on one: numactl --cpunodebind=N --membind=N in front of ray start",
        )
    elif count:
        yield ok("numa", "one memory node")
