"""Settings of Ray: a Ray of the run's own on this machine, or an existing cluster and what each role takes of it."""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

PASSED_ON = ("AWS_*", "HF_*", "HEADRACE_*", "NCCL_*", "VLLM_*", "SSL_CERT_FILE")
"""Credentials and endpoints of stores, caches of models, our own variables, the network of collectives and engines."""
_CUSTOM = re.compile(r"[A-Za-z][\w.:/-]*")
_RESERVED = ("CPU", "GPU", "memory", "object_store_memory")


class RoleConfig(BaseModel):
    """What one process of a role takes of an existing cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: float | None = Field(default=None, gt=0)
    """null = the role's threads. Ray only counts them: it confines no process to them."""
    gpus: float | None = Field(default=None, ge=0)
    """null = where the cluster has GPUs tensor_parallel for an engine and the evaluator, 1 for a scorer or a rank; where it has none, none."""
    custom: dict[str, float] = {}
    """Amounts of custom resources by name, as nodes were started with (`ray start --resources`): a pool of nodes, say."""

    @field_validator("gpus")
    @classmethod
    def _share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(
                "Ray shares one GPU among processes, and gives more than one only whole; use a whole number"
            )
        return gpus

    @field_validator("custom")
    @classmethod
    def _names_resources(cls, custom: dict[str, float]) -> dict[str, float]:
        for name, amount in custom.items():
            if name in _RESERVED or not _CUSTOM.fullmatch(name):
                raise ValueError(f"{name!r} is no custom resource; set cpus and gpus by their own keys")
            if amount <= 0:
                raise ValueError(f"{name} asks for {amount:g}; name an amount above 0")
        return custom


class ResourcesConfig(BaseModel):
    """By role. With ray.address = local only `gpus` counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generation: RoleConfig = RoleConfig()
    """An engine: all it takes comes from one node."""
    scoring: RoleConfig = RoleConfig()
    """A scorer; 0.5 GPU lets two share one."""
    training: RoleConfig = RoleConfig()
    """A rank. All ranks are placed together or not at all."""
    evaluation: RoleConfig = RoleConfig()
    """The evaluator of evaluation.interval_steps: an engine of its own, and what judges."""


class RayConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = "local"
    """local = a Ray of our own on this machine, which ends with the run; host:port = the head of an existing cluster of
    which this machine is a node; auto = the one that RAY_ADDRESS names, or that was started last on this machine."""
    object_store_mib: int = Field(default=128, ge=80)
    """Shared memory of a Ray of our own; small, since Ray carries control only. Ray refuses less than 75 MiB."""
    placement_s: float = Field(default=300.0, gt=0)
    """How long to wait for an existing cluster to have room for the whole run: as long as the processes of a run that
    just ended, or of nodes that join, may take."""
    resources: ResourcesConfig = ResourcesConfig()
    gpu_memory_gib: float | None = Field(default=None, gt=0)
    """Memory of one GPU, all being alike (79 for an H100 of 80 GB, 140 for an H200): a plan then says what each process takes
    of it, and what cannot fit is refused. null = no GPUs are reckoned with."""
    pass_environment: tuple[str, ...] = PASSED_ON
    """Environment variables of the command that reach the run's processes on an existing cluster; NAME, or a beginning of
    names and *. A Ray of our own inherits all."""

    @field_validator("address")
    @classmethod
    def _names_a_cluster(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError(
                "a Ray client drives the cluster through a proxy that dies with its connection; run the command on a node "
                "of the cluster, and set ray.address=auto or the host:port of its head (6379 by default)"
            )
        host, colon, port = address.rpartition(":")
        if address not in ("local", "auto") and not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError("it names no cluster; set ray.address=local, auto, or host:port of the cluster's head")
        return address

    @field_validator("pass_environment")
    @classmethod
    def _names_variables(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", name):
                raise ValueError(f"{name!r} names no environment variable; write NAME, or a beginning of names and *")
        return names

    @property
    def existing(self) -> bool:
        """The cluster is the user's own: neither started nor stopped by the run."""
        return self.address != "local"

    def environment(self, mine: dict[str, str]) -> dict[str, str]:
        """The variables of `mine` to pass on."""
        return {
            name: value for name, value in mine.items() if any(_matches(name, one) for one in self.pass_environment)
        }


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
