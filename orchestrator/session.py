"""What the stages of one command share: one Ray on this machine, and one set of processes for the ranks.

On a cluster of the user's own each stage takes its places and gives them back, as the single commands do.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from orchestrator.cluster import Cluster, LocalRay, local_ray, open_cluster
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder


class Session:
    """cluster(...) for each stage in turn; take_ranks and keep_ranks hand the ranks' processes from one to the next."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._local: LocalRay | None = None
        self._ranks: Sequence[Any] = ()

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
        """As `open_cluster`; the Ray of this machine stays when the block ends."""
        if recipe.ray.existing:
            with open_cluster(recipe, folder, epoch=epoch, warn=warn) as cluster:
                yield cluster
            return
        if self._local is None:
            self._local = self._opened.enter_context(local_ray(recipe, with_workers=True))
        yield self._local

    def keep_ranks(self, hosts: Sequence[Any]) -> bool:
        """The actors of ranks that have finished a stage; False: they cannot outlive their cluster's block."""
        self._ranks = hosts if self._local is not None else ()
        return bool(self._ranks)

    def take_ranks(self) -> Sequence[Any]:
        """Those kept last, by rank, whose end is the taker's from now on; empty where there are none."""
        hosts, self._ranks = self._ranks, ()
        return hosts
