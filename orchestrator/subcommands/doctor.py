"""Look at this machine, and at what a recipe names, before a run does."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.subcommands.door import Json, Overrides, command


@command("doctor")
def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE", help="YAML file; its store, server and cluster too.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 3 where there are warnings, and no error.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what is fine as well.")] = False,
    as_json: Json = False,
) -> None:
    """Check this machine, and with a recipe its model, store, Redis and all nodes of its Ray cluster; each with a remedy."""
    from orchestrator.doctor import command as examination

    examination.run(recipe, overrides or [], as_json=as_json, strict=strict, verbose=verbose)
