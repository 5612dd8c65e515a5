"""List and remove runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.subcommands.door import command, runs_app


@command("ls", group=runs_app)
def list_runs(
    roots: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[ROOT]...", help="Folders that hold runs, or runs; ./runs if none is named."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list on standard output instead of a table.")] = False,
) -> None:
    """What runs there are, what they do and what they hold on disk."""
    from orchestrator import commands

    commands.list_runs(roots or [], as_json=as_json)


@command("rm", group=runs_app)
def remove_runs(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Runs' folders, or their names below ./runs.")
    ] = None,
    state: Annotated[str, typer.Option(metavar="STATE", help="Only those in this state: completed, failed, …")] = "",
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Only those not active for 90m, 12h, 7d, 2w.")] = "",
    root: Annotated[Path, typer.Option(metavar="ROOT", help="Where to look if no RUN is named.")] = Path("runs"),
    leave_server: Annotated[
        bool,
        typer.Option(
            "--leave-server", help="Leave what is on a Redis or a Ray cluster of your own, which is gone, say."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs with all that they hold; one that is alive is refused."""
    from orchestrator import commands

    commands.remove_runs(
        runs or [], root=root, state=state, older_than=older_than, yes=yes, leave_server=leave_server, ask=_confirmed
    )


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("runs rm: nobody to ask on this input; remedy: --yes removes what is listed above")
    return bool(typer.confirm(question))
