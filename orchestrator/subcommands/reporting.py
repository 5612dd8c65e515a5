"""What came of a run, and of two runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.subcommands.door import Json, RunPath, command


@command("report")
def report(
    run: RunPath,
    other: Annotated[
        Path | None, typer.Argument(metavar="B", help="A second run, to compare with the first.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page to write; report.html in RUN's folder if none is named."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what came of a run, at any time of its life, as one HTML page; or how two runs compare."""
    from orchestrator.run_report import command as reporting

    reporting.run(run, other, out=out, as_json=as_json)
