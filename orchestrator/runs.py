"""The runs below some folders: what each is, when it last did something, and what it holds on disk."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator import recipe as recipes
from orchestrator.config import Recipe
from orchestrator.disk import bytes_below, size
from orchestrator.folder import RunFolder, state_of

STATES = ("new", "starting", "running", "dead", "completed", "stopped", "failed", "removing", "unreadable")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEntry:
    name: str
    path: str
    state: str
    """One of STATES."""
    step: int
    steps: int
    """0 where the run never came so far."""
    active: datetime
    """When it last wrote its status."""
    disk_bytes: int
    """Of its folder."""
    store: str
    """Where its blobs are, "" for in its folder."""
    store_bytes: int | None
    """Of a store elsewhere; None where that is no folder of this machine."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"active": self.active.isoformat(timespec="seconds")}


def is_run(path: Path) -> bool:
    """A folder that a driver has held: its lock and its recipe are there. A link to one is none."""
    return not path.is_symlink() and all((path / name).is_file() for name in ("recipe.yaml", "driver.lock"))


def list_runs(roots: Iterable[Path]) -> list[RunEntry]:
    """Of each root: itself if it is a run, else those directly in it; the latest active first. Links are not followed.

    ValueError: a root is no folder.
    """
    paths: set[Path] = set()
    for root in roots:
        if not os.path.isdir(root):  # unlike Path.is_dir, False for names that no folder can have
            raise ValueError(f"ROOT = {root}: there is no such folder; name one that holds runs (run.root)")
        below = [path for path in root.iterdir() if is_run(path)]
        paths |= {path.resolve() for path in ([root] if is_run(root) else below)}
    return sorted(filter(None, map(_entry_if_there, paths)), key=lambda run: (-run.active.timestamp(), run.path))


def _entry_if_there(path: Path) -> RunEntry | None:
    try:
        return entry(path)
    except FileNotFoundError:  # removed since we saw it
        return None


def entry(path: Path) -> RunEntry:
    folder = RunFolder(path)
    alive = folder.driver_pid() is not None
    try:
        content = folder.read_status()
        state = state_of(content, alive=alive)
    except ValueError:
        content, state = {}, "unreadable"
    written = folder.status if folder.status.exists() else folder.recipe
    store, store_bytes = store_of(folder)
    return RunEntry(
        name=folder.run_id,
        path=str(folder.path),
        state=state,
        step=max(int(content.get("step", 0)), 0),
        steps=int(content.get("steps", 0)),
        active=datetime.fromtimestamp(written.stat().st_mtime, UTC),
        disk_bytes=bytes_below(folder.path),
        store=store,
        store_bytes=store_bytes,
    )


def store_elsewhere(recipe: Recipe, folder: RunFolder) -> str:
    """Where the blobs of a run are that keeps them outside its folder, else ""."""
    return f"{recipe.store.url.rstrip('/')}/{folder.run_id}" if recipe.store.url else ""


def store_of(folder: RunFolder) -> tuple[str, int | None]:
    """Where the blobs of a run are that keeps them outside its folder, and how many bytes, None where that is no folder."""
    try:
        where = store_elsewhere(recipes.load_dumped(folder.recipe), folder)
    except recipes.RecipeError:
        return "?", None
    return where, None if "://" in where else bytes_below(Path(where)) if where else 0


def table(runs: Sequence[RunEntry]) -> list[list[str]]:
    """The header and a row a run, as text."""
    rows = [["RUN", "STATE", "STEP", "LAST ACTIVE", "DISK", "STORE", "WHERE"]]
    for run in runs:
        held = {None: run.store, 0: "-"}.get(run.store_bytes) or f"{size(run.store_bytes or 0)} in {run.store}"
        at = f"{run.active.astimezone():%Y-%m-%d %H:%M}"
        rows.append([run.name, run.state, f"{run.step}/{run.steps}", at, size(run.disk_bytes), held, run.path])
    return rows
