"""Makes the processes of a life of a run: who they are, what they are told, and where in the cluster they go."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from experience.buffer import ExperienceBuffer
from orchestrator import metrics
from orchestrator.cluster import Cluster
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.imports import BUILDER
from orchestrator.member import Member
from orchestrator.versions import life_record
from weightstore.blobs import BlobStore
from weightstore.epochs import claim_epoch


class Topology:
    """Makes the processes of one life of a run.

    `buffer` is None in a replay and in supervised fine-tuning; `rank_setup` are the arguments of the ranks' setup;
    `builder`: see orchestrator.imports. `hosts`: by worker's name, processes of an earlier stage, which become those
    of the first life.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        store: BlobStore,
        epoch: int,
        buffer: ExperienceBuffer | None,
        cluster: Cluster,
        rank_setup: Mapping[str, Any] | None = None,
        builder: str = BUILDER,
        hosts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._recipe, self._folder, self._store = recipe, folder, store
        self._run_epoch = self._trainer_epoch = epoch
        self._buffer, self._rank_setup = buffer, dict(rank_setup or {})
        self._builder, self._hosts = builder, dict(hosts)
        self._cluster = cluster

    @property
    def newest_epoch(self) -> int:
        """The last that this life has claimed: its own, or that of its ranks."""
        return self._trainer_epoch

    def worker(self, kind: str, index: int, life: int, now: float) -> Member:
        """A generation worker, a scorer or the evaluator; each life has a name of its own, so that its leases are its own."""
        section = self._recipe.scoring if kind == "score" else self._recipe.generation.engine
        spec = self._spec(kind, f"{kind}-{index}", section.threads) | {
            "consumer": f"{kind}-{index}.e{self._run_epoch}.{life}"
        }
        return self._member(spec, self._cluster.options(kind, index, life), now)

    def ranks(self, life: int, now: float) -> list[Member]:
        """All ranks of the trainer; a later life fences the one before it first."""
        if life > 0:
            self._trainer_epoch = claim_epoch(self._store, kind="ranks", life=life_record(self._recipe))
            if self._buffer is not None:
                self._buffer.raise_epoch(role="trainer", epoch=self._trainer_epoch)
        metrics.TRAINER_EPOCH.set(self._trainer_epoch)
        world = self._recipe.training.ranks
        members: list[Member] = []
        for rank in range(world):
            spec = self._spec("rank", f"rank-{rank}", self._recipe.training.threads)
            spec |= {"rank": rank, "world_size": world, "setup": self._rank_setup}
            spec |= {"with_buffer": self._buffer is not None and rank == 0}
            options = self._cluster.options("rank", rank, life)
            meeting = members[0].meeting if members else None
            members.append(self._member(spec, options, now, meeting=meeting))
        return members

    def _member(
        self, spec: Mapping[str, Any], options: Mapping[str, Any], now: float, *, meeting: Any = None
    ) -> Member:
        return Member(
            spec,
            options=options,
            environment=self._cluster.environment(),
            meeting=meeting,
            host=self._hosts.pop(spec["name"], None),
            config=self._recipe.supervise,
            now=now,
        )

    def _spec(self, kind: str, name: str, threads: int) -> dict[str, Any]:
        spec = basic_spec(self._recipe, self._folder, self._cluster, kind=kind, name=name, threads=threads)
        epochs = {"run_epoch": self._run_epoch, "trainer_epoch": self._trainer_epoch}
        return spec | epochs | {"builder": self._builder, "setup": {}}


def basic_spec(
    recipe: Recipe, folder: RunFolder, cluster: Cluster, *, kind: str, name: str, threads: int
) -> dict[str, Any]:
    """What a process is told as it comes up, whatever it is to hold."""
    return {
        "kind": kind,
        "name": name,
        "threads": threads,
        "folder": str(folder.path),
        "recipe": recipe.model_dump(mode="json"),
        "driver_pid": os.getpid(),
        "driver_node": cluster.node,
        "host": cluster.worker_host,
        "metrics_bind": recipe.metrics.bind,
    }
