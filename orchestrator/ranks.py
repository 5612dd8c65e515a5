"""The trainer's ranks alone, called one operation at a time and waited for: what training before a run and replays need."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from orchestrator.cluster import open_cluster
from orchestrator.config import Recipe
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.imports import BUILDER
from orchestrator.member import Member, cause_of
from orchestrator.sections import SuperviseConfig
from orchestrator.stages.session import Session
from orchestrator.stores import open_store
from orchestrator.supervise import back_off
from orchestrator.topology import Topology
from weightstore.epochs import newest_epoch

log = logging.getLogger(__name__)

Watch = Callable[[Mapping[str, Any]], None]

POLL_S = 0.2
"""Between two looks at the ranks' health while a call runs."""


class RankDied(RunFailed):
    """A rank's process is gone, or silent for too long; nothing says that the next would fail as well."""


class RankCrew:
    """All ranks of a recipe in its cluster, without a buffer and without an epoch: nothing they do is in a ledger.

    `setup` are the arguments of the ranks' setup. `session`: whose cluster and processes they take, and leave to the next
    stage where all went well; None: they have their own. `builder`: see orchestrator.imports. They start with the first call.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        session: Session | None = None,
        builder: str = BUILDER,
        **setup: Any,
    ) -> None:
        self._recipe, self._folder, self._setup = recipe, folder, setup
        self._session, self._builder = session, builder
        self._ranks: list[Member] = []
        self._stopping = False
        self._opened = ExitStack()

    def __enter__(self) -> "RankCrew":
        store = open_store(self._recipe, self._folder)
        opener = self._session.cluster if self._session else open_cluster
        self._topology = Topology(
            self._recipe,
            self._folder,
            store=store,
            epoch=newest_epoch(store),
            buffer=None,
            cluster=self._opened.enter_context(opener(self._recipe, self._folder, epoch=None, warn=log.warning)),
            rank_setup=self._setup,
            builder=self._builder,
            hosts=self._session.take("rank") if self._session else {},
        )
        self._opened.callback(self._kill)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._session and self._session.keep({rank.name: rank.actor for rank in self._ranks}):
            self._ranks = []
        self._opened.close()

    def call(self, method: str, *arguments: Any, watch: Watch | None = None) -> list[Any]:
        """Every rank's answer, by rank. RankDied, RunFailed: one of them failed or fell silent.

        watch: is shown each new status of rank 0 while the call runs.
        """
        if not self._ranks:
            self._ranks = self._topology.ranks(0, time.monotonic())
            self._wait([rank.setup_call for rank in self._ranks])
        if self._stopping:  # asked for while the ranks had nothing yet that could stop
            self.request_stop()
        return self._wait([rank.actor.call.remote(method, *arguments) for rank in self._ranks], watch)

    def carry_out(self, method: str, *arguments: Any, watch: Watch | None = None) -> list[Any]:
        """`call` of an operation that goes on from its own checkpoints: again on new processes when a rank has died.

        RunFailed: it failed by itself, or ranks keep dying without a step (`step` of their status) in between.
        """
        failures = furthest = 0

        def seen(status: Mapping[str, Any]) -> None:
            nonlocal failures, furthest
            if status.get("step", 0) > furthest:
                failures, furthest = 0, status["step"]
            if watch:
                watch(status)

        while True:
            try:
                return self.call(method, *arguments, watch=seen)
            except RankDied as error:
                self._kill()
                failures += 1
                wait = back_off(self._recipe.supervise, failures=failures, who="the trainer", cause=str(error))
                log.warning("all ranks restart", extra={"cause": str(error), "wait_s": wait})
                threading.Event().wait(wait)

    def _kill(self) -> None:
        for rank in self._ranks:
            rank.kill()
        self._ranks = []

    def request_stop(self) -> None:
        """The stage that is trained, or will be, stops after its step, with a checkpoint, and its call returns."""
        self._stopping = True
        for rank in self._ranks:
            rank.actor.stop.remote()

    def _wait(self, calls: list[Any], watch: Watch | None = None) -> list[Any]:
        shown: dict[str, Any] = {}
        pending = calls
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=POLL_S)
            for rank in self._ranks:
                cause = rank.pulse(time.monotonic())
                if cause:
                    raise self._failed(f"{rank.name}: {cause}")
            if watch and self._ranks[0].status != shown:
                shown = self._ranks[0].status
                watch(shown)
            for call in done:
                self._check(call)
        return [ray.get(call) for call in calls]

    def _check(self, call: Any) -> None:
        try:
            ray.get(call)
        except RayError as error:
            raise self._failed(cause_of(error)) from error

    def _failed(self, cause: str) -> RunFailed:
        """A peer of a rank that died fails as well, and often is the first to say so."""
        dead = [rank.name for rank in self._ranks if not _alive(rank, self._recipe.supervise)]
        return RankDied(f"{', '.join(dead)} died ({cause})") if dead else RunFailed(cause)


def _alive(rank: Member, config: SuperviseConfig) -> bool:
    try:
        ray.get(rank.actor.beat.remote(), timeout=config.heartbeat_s if rank.ready else config.starting_s)
    except (RayActorError, GetTimeoutError):
        return False
    except RayError:  # it answers, be it with what it failed at
        return True
    return True
