"""Whether what a run needs fits this machine: its memory, and the disk that it writes to."""

import os
from pathlib import Path

from orchestrator import disk
from orchestrator.config import Recipe
from orchestrator.disk import size
from orchestrator.plan import Plan, store_folder
from orchestrator.recipe import RecipeError

FULL_SHARE = 0.8
"""Of the free disk: a run that may fill more of it gets a warning."""


def memory_warnings(recipe: Recipe, plan: Plan) -> list[str]:
    """Of a run on this machine alone and without accelerators, whose memory is not ours to know. RecipeError when not even
    one process can fit."""
    if recipe.ray.address != "local" or recipe.ray.gpu_memory_gib is not None or Path("/dev/nvidia0").exists():
        return []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    where = f"model.path = {recipe.model.path}"
    remedy = "take a smaller model, a narrower dtype, a smaller generation.engine.kv_cache_gib, or more machines"
    name, most = max(plan.memory_bytes.items(), key=lambda one: one[1])
    if most > memory:
        line = (
            f"{where}: the {name} process alone needs about {size(most)}, and this machine has {size(memory)}; {remedy}"
        )
        raise RecipeError([line])
    total = sum(count * plan.processes.get(name, 1) for name, count in plan.memory_bytes.items())
    if total > memory:
        return [f"{where}: all processes need about {size(total)}, and this machine has {size(memory)}; {remedy}"]
    return []


def disk_warnings(recipe: Recipe, plan: Plan) -> list[str]:
    """One warning at most; RecipeError when the run cannot fit. What an earlier life wrote counts as free: it is reused."""
    free_in_root = disk.free_bytes(Path(recipe.run.root))
    low = f"run.root = {recipe.run.root}: only {size(free_in_root)} are free there; free some"
    if recipe.store.in_bucket:
        if free_in_root < disk.LOW_BYTES:
            raise RecipeError([low])
        return []
    folder = store_folder(recipe)
    free = disk.free_bytes(folder) + disk.bytes_below(folder)
    key = "store.url" if recipe.store.url else "run.root"
    where = f"{key} = {recipe.store.url or recipe.run.root}"
    facts = (
        f"the run may keep {size(plan.max_disk_bytes)} there at a time, {size(disk.LOW_BYTES)} must stay free, "
        f"and {size(free)} are free"
    )
    needed = plan.max_disk_bytes + disk.LOW_BYTES  # below which it would stop
    if needed > free:
        raise RecipeError([f"{where}: {facts}; free some, name another disk, or lower training.checkpoint.keep"])
    if free_in_root < disk.LOW_BYTES:
        raise RecipeError([low])
    if needed > FULL_SHARE * free:
        return [f"{where}: {facts}; lower training.checkpoint.keep if others write there too"]
    return []
