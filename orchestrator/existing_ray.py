"""An existing Ray cluster: a run's actors are detached there, named by run and epoch, and outlive a driver that is killed.

    namespace    headrace/{run}/{identity}            of this run among all of its name
    actors       headrace/{run}/e{epoch}/{role}-{index}.{life}
    groups       {namespace}/e{epoch}/{role}-{index}  placement groups have no namespace

The next life ends all that earlier epochs left, before it fences them: what they hold is free again, and what one of them
still tries to write is refused by the fences anyway.
"""

import logging
import os
import re
import socket
from collections.abc import Callable
from typing import Any

import ray
from ray._private import services
from ray.exceptions import RayError

from orchestrator import nodes
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.placement import impossible, rank_ask, worker_asks
from orchestrator.recipe import RecipeError
from orchestrator.reservation import Reservation, addresses, group_names, node_resources, remove_groups
from orchestrator.stores import identity, open_store
from weightstore.epochs import newest_epoch

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
"""For the head to take a connection; Ray itself would wait for minutes."""


class ExistingRay:
    """open, then `options` and `environment` for each actor; close ends all that this life and earlier ones have there."""

    worker_host = ""

    def __init__(self, recipe: Recipe, folder: RunFolder, *, epoch: int | None) -> None:
        """epoch: of this life; None = the ranks of no life, which end with this process."""
        self._recipe, self._folder, self._epoch = recipe, folder, epoch
        self._namespace = _namespace(recipe, folder) if epoch else ""
        self._reservation: Reservation | None = None
        self.host = self.node = ""

    def open(self, warn: Callable[[str], None]) -> None:
        """Connect, end what earlier lives left, reserve room for the whole run, look at the nodes it is on."""
        connect(self._recipe, namespace=self._namespace)
        self.host, self.node = ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id()
        if self._epoch:
            ended = end_actors(self._namespace, self._folder.run_id, up_to=self._epoch - 1)
            if ended:
                log.warning("actors of earlier lives ended", extra={"actors": ended})
        there = node_resources()
        gpus = any(has.get("GPU", 0) > 0 for has in there.values())
        ranks = rank_ask(self._recipe, gpus=gpus)
        asks = [*(worker_asks(self._recipe, gpus=gpus) if self._epoch else ()), ranks]
        lines = impossible(asks, there)
        if lines:
            raise RecipeError(lines)
        prefix = f"{self._namespace}/e{self._epoch}" if self._epoch else None
        self._reservation = Reservation(asks, prefix=prefix)
        self._reservation.reserve(within_s=self._recipe.ray.placement_s, tell=warn)
        names = addresses()
        log.info("placed", extra={"nodes": {names[node]: node for node in self._reservation.nodes()}})
        for line in nodes.inspect(self._reservation.nodes(), names, self._recipe, self._folder, epoch=self._epoch):
            warn(line)

    def options(self, kind: str, index: int, life: int) -> dict[str, Any]:
        assert self._reservation is not None, "open comes first"
        options = self._reservation.options(kind, index)
        if self._epoch:
            name = f"headrace/{self._folder.run_id}/e{self._epoch}/{kind}-{index}.{life}"
            options |= {"name": name, "lifetime": "detached"}
        return options

    def environment(self) -> dict[str, str]:
        return self._recipe.ray.environment(dict(os.environ))

    def close(self) -> None:
        if not ray.is_initialized():
            return
        try:
            if self._epoch:
                end_actors(self._namespace, self._folder.run_id, up_to=self._epoch)
            if self._reservation is not None:
                self._reservation.release()
        except RayError as error:  # a cluster that is gone has taken them along; why the run ends is said elsewhere
            log.warning("actors could not be ended", extra={"cause": str(error)})


def connect(recipe: Recipe, *, namespace: str) -> None:
    """RecipeError: no cluster answers there, or it is none that this process can join."""
    address = recipe.ray.address
    try:
        head = services.get_ray_address_from_environment("auto", None) if address == "auto" else address
        if not head or head.startswith("ray://"):
            raise ConnectionError("no cluster was found; set ray.address to the host:port of its head")
        host, _, port = head.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
        ray.init(address=address, namespace=namespace or None, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        cause = " ".join(str(error).split())
        raise RecipeError(
            [
                f"ray.address = {address}: cannot join that cluster ({cause}); start Ray on this machine with "
                "`ray start --address=HEAD:PORT`, same versions and token as the cluster's, or set ray.address=local"
            ]
        ) from error


def end_actors(namespace: str, run_id: str, *, up_to: int) -> list[str]:
    """Kill the run's actors of all epochs up to this one and free their places; their names, sorted.

    A process that is stopped ends as well: Ray gives it 5 s.
    """
    killed = []
    for name in ray.util.list_named_actors():
        if _epoch_of(name, f"headrace/{run_id}/e") <= up_to:
            try:
                ray.kill(ray.get_actor(name, namespace), no_restart=True)
                killed.append(name)
            except ValueError:
                log.info("actor was gone", extra={"actor": name})
    remove_groups(name for name in group_names() if _epoch_of(name, f"{namespace}/e") <= up_to)
    return sorted(killed)


def _epoch_of(name: str, prefix: str) -> float:
    """inf where the name is not one of the run's: nothing of others is ended."""
    parts = re.match(re.escape(prefix) + r"(\d+)/", name)
    return int(parts[1]) if parts else float("inf")


def end_leftovers(recipe: Recipe, folder: RunFolder) -> list[str]:
    """End what a killed driver left on its cluster; the actors' names. The caller holds the run's lock."""
    namespace = _namespace(recipe, folder)
    connect(recipe, namespace=namespace)
    try:
        return end_actors(namespace, folder.run_id, up_to=newest_epoch(open_store(recipe, folder)))
    finally:
        ray.shutdown()


def _namespace(recipe: Recipe, folder: RunFolder) -> str:
    return f"headrace/{folder.run_id}/{identity(recipe, folder)[:8]}"
