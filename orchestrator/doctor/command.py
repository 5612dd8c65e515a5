"""`headrace doctor`: looks at this machine, and with a recipe at all that it names."""

import json
from collections.abc import Iterator
from pathlib import Path

from orchestrator import recipe as recipes
from orchestrator.config import Recipe
from orchestrator.doctor import experience_server, machine, secrets, store
from orchestrator.doctor.checking import Look, examine, found_by
from orchestrator.doctor.finding import Finding, exit_code, of_line, ok, worst_first
from orchestrator.doctor.page import show, summary
from orchestrator.recipe import RecipeError

RECIPE_S = 300.0
"""For what a recipe names: its prompts may be read, its servers may be slow."""


def run(path: Path | None, overrides: list[str], *, as_json: bool, strict: bool, verbose: bool) -> None:
    recipe = recipes.load(path, overrides) if path else None
    findings = worst_first(diagnose(recipe))
    code = exit_code(findings, strict=strict)
    if as_json:
        content = {
            "findings": [one.as_dict() for one in findings],
            "summary": summary(findings, verbose=True),
            "exit": code,
        }
        print(json.dumps(content, indent=1))
    else:
        show(findings, verbose=verbose)
    if code:
        raise SystemExit(code)


def diagnose(recipe: Recipe | None) -> list[Finding]:
    """Everything, in the order in which it is looked at."""
    if recipe is None:
        return examine(machine.checks(folders={"runs": Path("runs").resolve()}, with_server=True))
    folders = {"run.root": Path(recipe.run.root)}
    if recipe.store.url and not recipe.store.in_bucket:
        folders["store.url"] = Path(recipe.store.url)
    object_store_bytes = recipe.ray.object_store_mib * 2**20
    looks = machine.checks(
        folders=folders, with_server=not recipe.experience.external, object_store_bytes=object_store_bytes
    )
    findings = [*examine(looks), *examine(_of_recipe(recipe), timeout_s=RECIPE_S)]
    if recipe.ray.existing:
        from orchestrator.doctor.nodes import check_cluster  # Ray, which takes seconds to import

        # In this thread: Ray is the process's, and a hung node has its own deadline.
        findings += found_by("ray", lambda: check_cluster(recipe))
    return findings


def _of_recipe(recipe: Recipe) -> dict[str, Look]:
    from orchestrator.doctor.ray_access import check_own

    external, in_bucket = recipe.experience.external, recipe.store.in_bucket
    return {
        "recipe": lambda: _preflight(recipe),
        "redis": lambda: (experience_server.check_own if external else experience_server.check_embedded)(recipe),
        "secrets": lambda: secrets.check_secrets(recipe),
        "store": lambda: store.check_bucket(recipe) if in_bucket else store.check_folder(store.store_folder(recipe)),
        **({} if recipe.ray.existing else {"ray": lambda: check_own(recipe)}),
    }


def _preflight(recipe: Recipe) -> Iterator[Finding]:
    """What a start would refuse or warn of, but for the server, which is looked at by itself."""
    from orchestrator import preflight  # tokenizers

    try:
        plan = preflight.plan(recipe)
    except RecipeError as refused:
        for line in refused.lines:
            if not line.startswith("experience."):
                yield of_line("error", "recipe", line)
        return
    for line in plan.warnings:
        if not line.startswith("experience."):
            yield of_line("warning", "recipe", line)
    yield ok(
        "recipe", f"a start would take it: {plan.model_kind}, {plan.parameters:,} parameters, {plan.prompts} prompts"
    )
