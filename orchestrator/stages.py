"""The stages of a pipeline: for each, whether its result is there, what can be checked beforehand, and how it is carried
out. What a stage does is in the module of its own command; here is only when.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator import launch
from orchestrator.config import Recipe
from orchestrator.console import Console
from orchestrator.folder import RunFolder
from orchestrator.session import Session

State = Literal["new", "begun", "done"]


class Stopped(Exception):
    """A stage was asked to end before its time, and can be gone on with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of a recipe.

    state()      ValueError: there is a result, of another configuration
    check()      before anything starts, when what earlier stages make may not be there; ValueError
    carry_out(session, quiet)
                 do it or go on with it; what came of it, JSON. Stopped; RunFailed, ValueError: it failed
    """

    name: str
    makes: Path
    state: Callable[[], State]
    check: Callable[[], None]
    carry_out: Callable[[Session, bool], Mapping[str, Any]]
    summary: Callable[[Mapping[str, Any]], str]
    """One line for people, from what came of it."""


def stages_of(recipe: Recipe) -> list[Stage]:
    """Those that the recipe has sections for, in their order."""
    folder = RunFolder(Path(recipe.run.root) / recipe.run.name)
    stages = [_fine_tuning(recipe)] if recipe.sft else []
    return [*stages, _reinforcement(recipe, folder), _export(recipe, folder)]


def before_stages(recipe: Recipe) -> Recipe:
    """The recipe with what is there already in place of what stages still have to make: for checks beforehand."""
    if recipe.sft is None or Path(recipe.model.path).exists():
        return recipe
    model = recipe.model.model_copy(update={"path": recipe.sft.base, "random_init": recipe.sft.random_init})
    return recipe.model_copy(update={"model": model})


def _fine_tuning(recipe: Recipe) -> Stage:
    makes = Path(recipe.model.path)

    def state() -> State:
        return "done" if makes.exists() else "new"

    def check() -> None:
        from orchestrator.preflight import check_sft

        check_sft(recipe)

    def carry_out(session: Session, quiet: bool) -> Mapping[str, Any]:
        from orchestrator.sft import fine_tune

        check()
        with Console(quiet=quiet) as console:
            return fine_tune(recipe, console=console, session=session)

    return Stage(
        name="sft",
        makes=makes,
        state=state,
        check=check,
        carry_out=carry_out,
        summary=lambda made: f"{made['steps']} steps, loss {made['loss']:.4f}",
    )


def _reinforcement(recipe: Recipe, folder: RunFolder) -> Stage:
    def state() -> State:
        if not folder.recipe.exists():
            return "new"
        launch.check_resume(folder, recipe)
        status = folder.read_status()
        return "done" if (status.get("state"), status.get("steps")) == ("completed", recipe.run.steps) else "begun"

    def check() -> None:
        from orchestrator import preflight

        preflight.plan(before_stages(recipe))

    def carry_out(session: Session, quiet: bool) -> Mapping[str, Any]:
        fresh = not folder.recipe.exists()
        if launch.start(recipe, folder, fresh=fresh, quiet=quiet, session=session) == "stopped":
            raise Stopped
        status = folder.read_status()
        return {key: status[key] for key in ("step", "epoch", "restarts", "last_step")}

    return Stage(
        name="run",
        makes=folder.path,
        state=state,
        check=check,
        carry_out=carry_out,
        summary=lambda made: f"{made['step']} steps, reward {made['last_step'].get('reward_mean', 0):.3g}",
    )


def _export(recipe: Recipe, folder: RunFolder) -> Stage:
    """The newest weights, again after a run that was prolonged."""
    note = folder.policy / "export.json"

    def state() -> State:
        from orchestrator.published import NEWEST, find_version
        from orchestrator.stores import open_store

        if not note.exists():
            return "new"
        newest = find_version(open_store(recipe, folder), folder, NEWEST)
        return "done" if json.loads(note.read_text())["version"] == str(newest) else "begun"

    def carry_out(session: Session, quiet: bool) -> Mapping[str, Any]:
        from orchestrator.export import export

        draft = folder.policy.with_name(f".{folder.policy.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)  # of a life that ended before it was whole
        made = export(recipe, folder, draft)
        (draft / note.name).write_text(json.dumps(made | {"out": str(folder.policy)}, indent=1) + "\n")
        shutil.rmtree(folder.policy, ignore_errors=True)
        draft.rename(folder.policy)
        return made | {"out": str(folder.policy)}

    return Stage(
        name="export",
        makes=folder.policy,
        state=state,
        check=lambda: None,
        carry_out=carry_out,
        summary=lambda made: f"version {made['version']}",
    )
