"""The network of collectives: NCCL's version, and which device NCCL and gloo are told to use."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.doctor.finding import Finding, error, note, ok

VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def check_nccl(found: Mapping[str, str]) -> Iterator[Finding]:
    """`found`: versions of packages by name."""
    for name, version in found.items():
        if name.startswith("nvidia-nccl"):
            yield ok("nccl", f"{name} {version}")


def check_devices(
    environment: Mapping[str, str] = os.environ, devices: Sequence[str] | None = None, *, gpus: bool = True
) -> Iterator[Finding]:
    """`devices`: names of this machine's network devices; None = ask the kernel. `gpus`: NCCL will be used."""
    devices = [name for _, name in socket.if_nameindex()] if devices is None else devices
    outer = [name for name in devices if name != "lo"]
    for variable in VARIABLES:
        value = environment.get(variable)
        if value is None:
            continue
        if _matching(value, devices):
            yield ok(variable, f"{value}: {' '.join(_matching(value, devices))}")
        else:
            yield error(
                variable,
                f"{value}: no such network device",
                "ranks do not find one another, and end at training.collective_timeout_s",
                f"export {variable}={outer[0] if outer else 'lo'} (there are {' '.join(devices)})",
            )
    if gpus and "NCCL_SOCKET_IFNAME" not in environment and len(outer) > 1:
        yield note(
            "NCCL_SOCKET_IFNAME",
            f"not set, and there are {' '.join(outer)}",
            "on a cluster NCCL may choose a slow one, or one that the other nodes do not reach",
            "export NCCL_SOCKET_IFNAME=DEVICE on every node; a run passes NCCL_* on (ray.pass_environment)",
        )


def _matching(value: str, devices: Sequence[str]) -> list[str]:
    """NCCL's own words: beginnings of names between commas, = for whole names, ^ in front for all but these."""
    inverse, whole = value.startswith("^"), value.lstrip("^").startswith("=")
    wanted = [one for one in value.lstrip("^=").split(",") if one]
    hits = [
        name for name in devices if any(name == one if whole else name.startswith(one) for one in wanted)
    ]  # fmt: skip
    return [name for name in devices if name not in hits and name != "lo"] if inverse else hits
