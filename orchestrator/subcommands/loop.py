"""Run, resume, look at, stop and check a run; prompts; export."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.subcommands.door import Json, Overrides, RecipePath, RunPath, command


@command("run")
def run(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="YAML file.", show_default=False)] = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would run, start nothing.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Train RUN's batches again from its oldest cut and compare the weights."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train: generation, scoring and the learner, until the last step."""
    from orchestrator import commands

    if replay is not None and recipe is None and not dry_run:
        commands.replay(replay, as_json=as_json)
    elif recipe is None or replay is not None:
        raise ValueError("run: name either a RECIPE, also with --dry-run, or --replay RUN")
    elif dry_run:
        commands.plan(recipe, overrides or [], as_json=as_json)
    else:
        commands.run(recipe, overrides or [], as_json=as_json)


@command("resume")
def resume(run: RunPath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint and its ledger."""
    from orchestrator import commands

    commands.resume(run, overrides or [], as_json=as_json)


@command("pipeline")
def pipeline(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what is left to do, start nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Do all that a recipe describes: fine-tuning, reward model, run, export, evaluation; go on with what is begun."""
    from orchestrator import commands

    commands.pipeline(recipe, overrides or [], dry_run=dry_run, as_json=as_json)


@command("data")
def data(recipe: RecipePath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check a recipe's prompts, and show how many and how long they are and the first as the model sees it."""
    from orchestrator import commands

    commands.data(recipe, overrides or [], as_json=as_json)


@command("status")
def status(run: RunPath, as_json: Json = False) -> None:
    """What a run is doing, or why it ended."""
    from orchestrator import commands

    commands.status(run, as_json=as_json)


@command("stop")
def stop(
    run: RunPath,
    now: Annotated[bool, typer.Option("--now", help="Kill it at once; `resume` trains the lost step again.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return once it has ended.")] = False,
) -> None:
    """Ask a run to finish its step, checkpoint and end."""
    from orchestrator import commands

    commands.stop(run, now=now, wait=wait)


@command("audit")
def audit(run: RunPath, as_json: Json = False) -> None:
    """Balance every prompt that a run issued against its one end."""
    from orchestrator import commands

    commands.audit(run, as_json=as_json)


@command("export")
def export(
    run: RunPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist.", show_default=False)],
    version: Annotated[
        str, typer.Option(metavar="VERSION", help="newest, best (by the run's own evaluation), or a step.")
    ] = "newest",
    as_json: Json = False,
) -> None:
    """Write a run's weights, the newest unless told otherwise, as an ordinary Hugging Face folder."""
    from orchestrator import commands

    commands.export(run, out, version=version, as_json=as_json)
