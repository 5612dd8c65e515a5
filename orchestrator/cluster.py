"""The Ray that a run's processes live in: one of its own on this machine, or a cluster that exists without it."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

from orchestrator.config import Recipe
from orchestrator.errors import RunFailed
from orchestrator.existing_ray import ExistingRay
from orchestrator.folder import RunFolder
from orchestrator.ray_token import require_token
from orchestrator.spare_ray import spare

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


class Cluster(Protocol):
    """Where processes go, and how they are told apart.

    node             id of the one that the driver is on
    host             address at which the driver's own servers listen; a worker's is `worker_host`, empty = its node's
    options(...)     of the actor for a role (gen | score | rank | eval), an index of it and a life of that
    environment()    variables that a worker must be given, since it does not inherit them
    """

    node: str
    host: str
    worker_host: str

    def options(self, kind: str, index: int, life: int) -> dict[str, Any]: ...

    def environment(self) -> dict[str, str]: ...


class LocalRay:
    """All on this machine and on loopback; it ends with the driver, whose environment its workers inherit."""

    host = worker_host = LOOPBACK

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.node = ray.get_runtime_context().get_node_id()
        self._has_gpus = ray.cluster_resources().get("GPU", 0) > 0

    def options(self, kind: str, index: int, life: int) -> dict[str, Any]:
        roles = self._recipe.ray.resources
        role = {
            "gen": roles.generation,
            "score": roles.scoring,
            "rank": roles.training,
            "eval": roles.evaluation,
        }[kind]
        needed = self._recipe.generation.engine.tensor_parallel if kind in ("gen", "eval") else 1
        gpus = float(needed if role.gpus is None else role.gpus)
        return {"num_gpus": gpus if self._has_gpus else 0}

    def environment(self) -> dict[str, str]:
        return {}


@contextmanager
def open_cluster(
    recipe: Recipe, folder: RunFolder, *, epoch: int | None, warn: Callable[[str], None] = log.warning
) -> Iterator[Cluster]:
    """Everything of a run is placed in it, and has ended when the block does.

    epoch: of the life that begins, which first ends what earlier ones left in the cluster; None = for the ranks alone,
    which write nothing (a replay, fine-tuning). RecipeError, RunFailed: the cluster cannot take it, and why.
    """
    if recipe.ray.existing:
        with _quiet_ray():
            cluster = ExistingRay(recipe, folder, epoch=epoch)
            try:
                cluster.open(warn)
                yield cluster
            finally:
                cluster.close()
    else:
        with local_ray(recipe, with_workers=epoch is not None) as local:
            yield local


@contextmanager
def local_ray(recipe: Recipe, *, with_workers: bool) -> Iterator[LocalRay]:
    """A Ray of this process's own, for the ranks alone or for engines and scorers as well."""
    workers = recipe.generation.workers + recipe.scoring.workers if with_workers else 0
    with _quiet_ray():
        start_ray(recipe, processes=recipe.training.ranks + workers)
        log.info("ray started")
        yield LocalRay(recipe)


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """What it says goes to our log, and it ends with the block."""
    ray_worker.print_to_stdstream = _log_lines
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(recipe: Recipe, *, processes: int) -> None:
    """A Ray of this run's own, for control messages only: no dashboard, no usage reports, the smallest object store."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ[ray_constants.RAY_WORKER_NICENESS] = (
        "0"  # Ray lowers its workers' priority by 15; here they are the work itself
    )
    # Ray's mode for one machine, as on Windows and macOS: all its servers listen on loopback alone.
    ray_constants.ENABLE_RAY_CLUSTER = False
    spare()
    require_token()
    try:
        ray.init(
            address="local",
            num_cpus=processes,  # actors ask for none; Ray starts so many processes at once, and before they are asked for
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=recipe.ray.object_store_mib * 1024**2,
            _node_ip_address=LOOPBACK,
        )
    except Exception as error:  # nothing narrower is raised where its servers do not come up in time
        raise RunFailed(
            f"Ray did not start: {error}; remedy: `headrace doctor` looks at memory, disk and load of this machine, then try again"
        ) from error


def _log_lines(data: Any, ignore_prefix: bool) -> None:
    # Ray reports deaths on standard output, which belongs to results; supervision tells of them in its own words.
    log.info("ray", extra={"lines": data["lines"]})
