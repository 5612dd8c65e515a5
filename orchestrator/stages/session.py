"""What the stages of one command share: one Ray on this machine, one set of processes for the ranks, and engines' and
scorers' processes that load their libraries while the ranks train.

On a cluster of the user's own each stage takes its places and gives them back, as the single commands do.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Literal

from orchestrator.actors import Host
from orchestrator.cluster import Cluster, LocalRay, local_ray, open_cluster
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.imports import LOADER
from orchestrator.supervise import Kind
from orchestrator.topology import basic_spec


class Session:
    """cluster(...) for each stage in turn; take() and keep(...) hand processes from one to the next."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._local: LocalRay | None = None
        self._hosts: dict[str, Any] = {}

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    @contextmanager
    def cluster(
        self, recipe: Recipe, folder: RunFolder, *, epoch: int | None, warn: Callable[[str], None]
    ) -> Iterator[Cluster]:
        """As `open_cluster`; the Ray of this machine stays when the block ends.

        When a stage before a run opens it, the run's workers come up as well.
        """
        if recipe.ray.existing:
            with open_cluster(recipe, folder, epoch=epoch, warn=warn) as cluster:
                yield cluster
            return
        if self._local is None:
            self._local = self._opened.enter_context(local_ray(recipe, with_workers=True))
            if epoch is None:
                self._hosts = _warm_workers(recipe, folder, self._local)
        yield self._local

    def keep(self, hosts: Mapping[str, Any]) -> bool:
        """The actors of workers that have finished a stage, by name; False: they cannot outlive their cluster's block."""
        if self._local is not None:
            self._hosts |= hosts
        return self._local is not None

    def take(self, *kinds: Kind | Literal["rank"]) -> dict[str, Any]:
        """Those of these kinds that are kept, by name; their end is the taker's from now on."""
        taken = {name: host for name, host in self._hosts.items() if name.partition("-")[0] in kinds}
        self._hosts = {name: host for name, host in self._hosts.items() if name not in taken}
        return taken


def _warm_workers(recipe: Recipe, folder: RunFolder, cluster: Cluster) -> dict[str, Any]:
    """A process for each engine and scorer of the run."""
    hosts: dict[str, Any] = {}
    generation, scoring = recipe.generation, recipe.scoring
    for kind, workers, threads in (
        ("gen", generation.workers, generation.engine.threads),
        ("score", scoring.workers, scoring.threads),
    ):
        for index in range(workers):
            name, options = f"{kind}-{index}", cluster.options(kind, index, 0)
            spec = basic_spec(recipe, folder, cluster, kind=kind, name=name, threads=threads)
            hosts[name] = Host.options(**options).remote(spec)  # type: ignore[attr-defined]
            hosts[name].warm.remote(LOADER)
    return hosts
