"""Removes runs, each with all that it holds: its folder, its store's blobs, its groups in a server and its processes in a
cluster of the user's own.

Order, so that a removal that was interrupted can be repeated and a half removed run is never resumed: what a killed driver
left on a cluster ends, its status says `removing`, then the blobs and the groups go, for which the recipe is needed; then the folder vanishes by a rename, whole.
"""

import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator import recipe as recipes
from orchestrator.config import Recipe
from orchestrator.disk import size
from orchestrator.errors import RunFailed
from orchestrator.folder import LIVING, REMOVING, RunFolder
from orchestrator.runs import RunEntry, entry, is_run, store_elsewhere

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which runs to remove; a field that is empty or None lets all pass."""

    state: str = ""
    older_than: timedelta | None = None
    """Since the run was last active."""

    def __call__(self, run: RunEntry) -> bool:
        old = self.older_than is None or datetime.now(UTC) - run.active > self.older_than
        return old and (not self.state or run.state == self.state)


def parse_age(text: str) -> timedelta:
    """90m, 12h, 7d or 2w. ValueError: anything else."""
    parts = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if parts is None:
        raise ValueError(f"--older-than = {text}: no age; write a number and m, h, d or w, like 7d")
    return timedelta(**{_UNITS[parts[2]]: int(parts[1])})


def passes(chosen: Filter, path: Path) -> bool:
    """What an interrupted removal left has no state any more, and whoever names it wants it gone."""
    return not is_run(path) or chosen(entry(path))


def find_removable(path: Path) -> Path:
    """A run by its folder or its name below ./runs. ValueError: there is none, or it is a link."""
    for candidate in (path, Path("runs") / path):
        if os.path.islink(candidate):
            raise ValueError(f"RUN = {candidate}: is a link, and links are not followed; name the folder itself")
        whole = candidate.resolve()
        if os.path.isdir(_doomed(whole)) or (os.path.isdir(whole) and is_run(whole)):
            return whole
    raise ValueError(f"RUN = {path}: no run there and none at {Path('runs') / path}; `headrace runs ls` lists them")


def describe(path: Path) -> str:
    """One line: what goes with it. ValueError: the run lives."""
    if not is_run(path):
        return f"{path}: what an interrupted removal left"
    run, folder = entry(path), RunFolder(path)
    pid = folder.driver_pid()
    if pid is not None:
        raise ValueError(f"{path}: the run is alive (driver process {pid}); `headrace stop` it first")
    held = [name for name in ("weights", "checkpoints", "ledger", "logs") if (folder.path / name).is_dir()]
    elsewhere = f", and all blobs in {run.store}" if run.store else ""
    elsewhere += f" ({size(run.store_bytes)})" if run.store and run.store_bytes is not None else ""
    kept = f" with {', '.join(held)}" if held else ""
    return f"{run.path}: {run.state} at step {run.step} of {run.steps}, {size(run.disk_bytes)}{kept}{elsewhere}"


def remove(path: Path, *, leave_server: bool = False) -> None:
    """ValueError: the run lives, or its recipe, which names its stores, cannot be read. StoreError, RunFailed: a store
    cannot be reached.

    leave_server: look neither for the run's groups in a Redis nor for its processes in a Ray cluster of the user's own,
    which is gone, say; a server of the run's own ends all the same.
    """
    doomed = _doomed(path)
    if doomed.is_dir() and not doomed.is_symlink():
        shutil.rmtree(doomed)
    if not is_run(path):
        return
    folder = RunFolder(path)
    recipe = recipes.load_dumped(folder.recipe)
    with folder.locked():
        if recipe.ray.existing and folder.says(*LIVING) and not leave_server:
            _end_processes(recipe, folder)
        folder.write_last({"run": folder.run_id, "state": REMOVING, "cause": f"`headrace runs rm {folder.quoted}`"})
        from orchestrator.stores import open_store  # the stores' libraries, once there is something to do

        if not (leave_server and recipe.experience.external):
            _forget_groups(recipe, folder)
        if store_elsewhere(recipe, folder):
            store = open_store(recipe, folder)
            for key in store.list(""):
                store.delete(key)
            store_folder = Path(store_elsewhere(recipe, folder))
            if (store_folder / ".scratch").is_dir():
                shutil.rmtree(store_folder / ".scratch")
            if store_folder.is_dir() and not any(store_folder.iterdir()):
                store_folder.rmdir()
        folder.shared_targets.unlink(missing_ok=True)
        folder.path.rename(doomed)
        shutil.rmtree(doomed)


def _end_processes(recipe: Recipe, folder: RunFolder) -> None:
    """Those that a killed driver left on the user's cluster: without the run's identity nobody would find them again."""
    from orchestrator.existing_ray import end_leftovers

    try:
        end_leftovers(recipe, folder)
    except recipes.RecipeError as error:
        raise RunFailed(f"{error}; or leave its processes there with --leave-server") from error


def _forget_groups(recipe: Recipe, folder: RunFolder) -> None:
    """End the embedded server that a killed driver left behind, or delete the run's keys on the user's own."""
    from experience.buffer import BufferRefused, BufferUnavailable
    from orchestrator.stores import forget_groups

    try:
        forget_groups(recipe, folder)
    except (BufferUnavailable, BufferRefused) as error:
        raise RunFailed(
            f"experience.url = {recipe.experience.url}: {error}; repeat once that is mended, or leave its groups there "
            "with --leave-server"
        ) from error


def _doomed(path: Path) -> Path:
    """Where a run's folder goes to be deleted: beside it, on the same filesystem."""
    return path.with_name(f".{path.name}.removed")
