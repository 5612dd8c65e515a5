"""All that is looked at on one machine; the same on this one and on each node of a cluster."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from orchestrator.doctor import (
    disks,
    experience_server,
    gpu,
    kernel,
    limits,
    memory,
    names,
    network,
    packages,
    processor,
)
from orchestrator.doctor.checking import Look

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a Ray of a run's own by default (ray.object_store_mib), where no recipe says otherwise."""


def checks(
    *, folders: Mapping[str, Path], with_server: bool, object_store_bytes: int = OBJECT_STORE_BYTES
) -> dict[str, Look]:
    """By name. `folders`: what a run writes to; `with_server`: a Redis may be started here."""
    found = packages.installed()
    disk = {**folders, "temporary files": Path(tempfile.gettempdir())}
    looks: dict[str, Look] = {
        "python": packages.check_python,
        "package versions": lambda: packages.check_versions(found),
        "package builds": lambda: packages.check_builds(found),
        "cores": processor.check_cores,
        "instructions": processor.check_flags,
        "numa": processor.check_numa,
        "memory": memory.check_memory,
        "swap": memory.check_swap,
        "shared memory": lambda: memory.check_shared(needed_bytes=object_store_bytes),
        "disks": lambda: disks.check_disks(disk),
        "open files": limits.check_files,
        "processes": limits.check_tasks,
        "core dumps": limits.check_core_dumps,
        "localhost": names.check_localhost,
        "host name": names.check_host_name,
        "gpu": gpu.check_gpus,
        "nccl": lambda: network.check_nccl(found),
        "network devices": lambda: network.check_devices(gpus=gpu.present()),
    }
    if with_server:
        looks |= {
            "redis binary": experience_server.check_binary,
            "overcommit": kernel.check_overcommit,
            "huge pages": kernel.check_huge_pages,
            "somaxconn": kernel.check_backlog,
        }
    return looks
