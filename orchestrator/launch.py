"""Starts or resumes a run: what is checked before anything is written, and what is written before its life begins."""

import sys
from typing import TYPE_CHECKING

from orchestrator import recipe as recipes
from orchestrator.config import Recipe, resume_violations
from orchestrator.console import Console
from orchestrator.folder import REMOVING, RunFolder
from orchestrator.imports import BUILDER, collector_off
from orchestrator.inputs import same_inputs
from orchestrator.run_report.write import write_at_end

if TYPE_CHECKING:
    from orchestrator.stages.session import Session


def resumable(folder: RunFolder, overrides: list[str]) -> Recipe:
    """The recipe with which the run goes on. RecipeError: a setting that a resume cannot change. ValueError: no such run."""
    if folder.says(REMOVING):
        raise ValueError(f"RUN = {folder.path}: is half removed; remedy: `headrace runs rm {folder.quoted}` ends it")
    new = recipes.load_dumped(folder.recipe, [*overrides, f"run.root={folder.path.parent}"])
    check_resume(folder, new)
    return new


def check_resume(folder: RunFolder, new: Recipe) -> None:
    """RecipeError: the run cannot go on with this recipe."""
    old = recipes.load_dumped(folder.recipe)
    lines = resume_violations(old, new)
    if folder.run_id != old.run.name:
        lines.append(
            f"RUN = {folder.path}: the folder of run {old.run.name} was renamed, and its groups and keys bear that name; "
            f"name the folder {old.run.name} again"
        )
    if lines:
        raise recipes.RecipeError(lines)


def start(
    recipe: Recipe,
    folder: RunFolder,
    *,
    fresh: bool,
    quiet: bool,
    builder: str = BUILDER,
    session: "Session | None" = None,
) -> str:
    """Check, prepare the folder, live; how the life ended, `completed` or `stopped`.

    ValueError: refused, and nothing was started. RunFailed: it cannot go on. `builder`: see orchestrator.imports.
    """
    from orchestrator import preflight
    from orchestrator.stores import check_store

    if fresh:
        _refuse_second(folder)
    writes: list[str] = []
    with collector_off():
        # Printed, not logged: there is no log before the run is ours.
        issuer = preflight.check(
            recipe, warn=lambda line: print(f"headrace: warning: {line}", file=sys.stderr), tell=writes.append
        )
    check_store(recipe, folder, fresh=fresh)
    with folder.locked():
        if fresh:  # again, since another may have begun it while we looked at the inputs
            _refuse_second(folder)
        folder.create()
        same_inputs(folder, recipe, prompts=issuer.source.digests)
        folder.write_json(folder.data, [one.as_dict() for one in issuer.source.surveys])
        folder.write(folder.recipe, recipes.dump(recipe))
        with collector_off():
            from orchestrator.life import live  # Ray and the stores, only once nothing is left to refuse

        with Console(quiet=quiet) as console:
            for line in (f"run {folder.run_id}: {folder.path}", *writes):
                console.say(line)
            try:
                return live(recipe, folder, issuer=issuer, console=console, builder=builder, session=session)
            finally:
                write_at_end(folder, console)


def _refuse_second(folder: RunFolder) -> None:
    if folder.recipe.exists():
        raise ValueError(
            f"run.name = {folder.run_id}: {folder.path} holds a run already; "
            f"remedy: `headrace resume {folder.quoted}`, or another run.name"
        )
