"""Looks at every node on which a run will live: the same packages, the same files, the same store.

A process of our own on each node answers; it lives for that one question.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator import versions
from orchestrator.config import Recipe
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.periodic import check as periodic
from orchestrator.recipe import RecipeError
from orchestrator.reward_checks import reward_models

_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""The same for all that runs on one kernel."""


@ray.remote(num_cpus=0, max_restarts=0)
class Probe:
    def look(self, question: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
        """What this node has. `environment` comes by a call, never with the creation: Ray keeps a record of that."""
        os.environ.update(environment)
        return _look(question)


def _look(question: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "versions": versions.mine(),
        "boot": _BOOT.read_text(),
        "niceness": os.nice(0),
        "folder": Path(question["folder"]).is_dir(),
        "unreadable": [key for key, path in question["paths"].items() if not os.access(path, os.R_OK)],
        "store": _store(question) if question["epoch"] else "",
    }


def _store(question: Mapping[str, Any]) -> str:
    """Why this node does not reach the run's store; empty = it does, since it sees the epoch that the driver claimed."""
    from orchestrator.stores import open_store
    from weightstore.epochs import newest_epoch

    recipe, folder = Recipe.model_validate(question["recipe"]), RunFolder(Path(question["folder"]))
    try:
        seen = newest_epoch(open_store(recipe, folder))
    except (OSError, ValueError) as error:
        return str(error)
    return "" if seen >= question["epoch"] else "it sees another folder there than the driver"


def inspect(
    nodes: Iterable[str], addresses: Mapping[str, str], recipe: Recipe, folder: RunFolder, *, epoch: int | None
) -> list[str]:
    """Warnings; RecipeError with all that keeps the run from living on these nodes. `epoch`: the driver's; None = no store
    is written to."""
    question = {
        "folder": str(folder.path),
        "paths": _model_paths(recipe) if epoch else {},
        "epoch": epoch or 0,
        "recipe": recipe.model_dump(mode="json"),
    }
    answers = _ask(nodes, addresses, question, recipe)
    problems, warnings = [], []
    for node, answer in answers.items():
        problems += _problems(node, answer, recipe, with_buffer=epoch is not None)
        if answer["niceness"] > 0:
            warnings.append(
                f"node {node}: its workers run at niceness {answer['niceness']}, behind everything else there; "
                "start Ray on it with RAY_worker_niceness=0 in the environment"
            )
    if problems:
        raise RecipeError(problems)
    return warnings


def _ask(
    nodes: Iterable[str], addresses: Mapping[str, str], question: Mapping[str, Any], recipe: Recipe
) -> dict[str, dict[str, Any]]:
    environment = recipe.ray.environment(dict(os.environ))
    probes, calls = [], {}
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        probes.append(Probe.options(scheduling_strategy=where).remote())  # type: ignore[attr-defined]
        calls[addresses[node]] = probes[-1].look.remote(question, environment)
    answers = {}
    for address, call in calls.items():
        try:
            answers[address] = ray.get(call, timeout=recipe.supervise.starting_s)
        except GetTimeoutError:
            raise RunFailed(
                f"node {address}: no answer within supervise.starting_s = {recipe.supervise.starting_s:g} s; "
                "look whether it is overloaded, or take it out of the cluster"
            ) from None
        except RayError as error:
            cause = " ".join(str(error).strip().splitlines()[-1:])
            raise RecipeError(
                [f"node {address}: headrace cannot run there ({cause}); install the same packages on every node"]
            ) from error
    for probe in probes:
        ray.kill(probe)
    return answers


def _problems(node: str, answer: Mapping[str, Any], recipe: Recipe, *, with_buffer: bool) -> list[str]:
    lines = versions.differences(node, answer["versions"], versions.mine())
    paths = _model_paths(recipe)
    lines += [
        f"{key} = {paths[key]}: node {node} cannot read it; put it at the same path on every node, or on a shared one"
        for key in answer["unreadable"]
    ]
    if answer["store"]:
        key, value = ("store.url", recipe.store.url) if recipe.store.url else ("run.root", recipe.run.root)
        lines.append(
            f"{key} = {value}: node {node} does not reach the run's store ({answer['store']}); "
            "set store.url to a folder that every node shares, or to s3://bucket/prefix"
        )
    elsewhere = answer["boot"] != _BOOT.read_text() or not answer["folder"]
    if with_buffer and elsewhere and not recipe.experience.external:
        lines.append(
            f"experience.url = {recipe.experience.url}: its server takes connections on this machine alone, and processes "
            f"of the run live on node {node}; set experience.url=redis://host:port/db, or rediss:// for TLS"
        )
    return lines


def _model_paths(recipe: Recipe) -> dict[str, str]:
    reference = recipe.scoring.reference.path if recipe.scoring.reference else None
    referred = {"scoring.reference.path": reference} if reference else {}
    referred |= periodic.paths(recipe)
    return {"model.path": recipe.model.path, **referred, **reward_models(recipe.scoring)}
