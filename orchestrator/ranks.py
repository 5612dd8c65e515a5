"""The trainer's ranks alone, called one operation at a time and waited for: what fine-tuning and replays need."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import ray

from orchestrator.cluster import open_cluster
from orchestrator.config import Recipe
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.member import cause_of
from orchestrator.stores import open_store
from orchestrator.topology import Topology
from weightstore.epochs import newest_epoch

Watch = Callable[[Mapping[str, Any]], None]

POLL_S = 0.2
"""Between two looks at the ranks' health while a call runs."""


class RankCrew:
    """All ranks of a recipe in its cluster, without a buffer and without an epoch: nothing they do is recorded.

    `setup` are the arguments of the ranks' setup.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, **setup: Any) -> None:
        self._recipe, self._folder, self._setup = recipe, folder, setup

    def __enter__(self) -> "RankCrew":
        store = open_store(self._recipe, self._folder)
        with ExitStack() as opened:
            topology = Topology(
                self._recipe,
                self._folder,
                store=store,
                epoch=newest_epoch(store),
                buffer=None,
                cluster=opened.enter_context(open_cluster(self._recipe, self._folder, epoch=None)),
                rank_setup=self._setup,
            )
            self._ranks = topology.ranks(0, time.monotonic())
            for rank in self._ranks:
                opened.callback(rank.kill)
            self._wait([rank.setup_call for rank in self._ranks])
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def call(self, method: str, *arguments: Any, watch: Watch | None = None) -> list[Any]:
        """Every rank's answer, by rank. RunFailed: one of them failed or fell silent.

        watch: is shown each new status of rank 0 while the call runs.
        """
        return self._wait([rank.actor.call.remote(method, *arguments) for rank in self._ranks], watch)

    def _wait(self, calls: list[Any], watch: Watch | None = None) -> list[Any]:
        shown: dict[str, Any] = {}
        pending = calls
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=POLL_S)
            for rank in self._ranks:
                cause = rank.pulse(time.monotonic())
                if cause:
                    raise RunFailed(f"{rank.name}: {cause}")
            if watch and self._ranks[0].status != shown:
                shown = self._ranks[0].status
                watch(shown)
            for call in done:
                self._check(call)
        return [ray.get(call) for call in calls]

    def _check(self, call: Any) -> None:
        try:
            ray.get(call)
        except ray.exceptions.RayError as error:
            raise RunFailed(cause_of(error)) from error
