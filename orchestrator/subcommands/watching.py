"""Look at a run from outside: the live view, the logs, one group's way."""

import time
from typing import Annotated, Literal

import typer

from orchestrator.subcommands.door import Json, RunPath, command


@command("logs")
def logs(
    run: RunPath,
    role: Annotated[
        list[str] | None, typer.Option(metavar="ROLE", help="Only of driver, gen, score, rank or eval; repeatable.")
    ] = None,
    worker: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only of this one, as gen-0; repeatable.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Only lines in which it is found, as they are shown.")
    ] = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], typer.Option(help="Only of this level or graver.")
    ] = "debug",
    step: Annotated[int | None, typer.Option(metavar="N", help="Only about this step.")] = None,
    group: Annotated[int | None, typer.Option(metavar="N", help="Only about the group of this sequence.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only of the last 90s, 10m, 2h, 3d, or since a date and time.")
    ] = None,
    last: Annotated[int | None, typer.Option("-n", "--last", metavar="N", min=0, help="Only the last lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is logged meanwhile.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The lines as they were written, an object each.")] = False,
) -> None:
    """What all processes of a run logged, in the order of time."""
    from orchestrator.commands import find
    from orchestrator.log_reader import command as reader
    from orchestrator.log_reader.choice import choice

    chosen = choice(
        roles=role or (),
        workers=worker or (),
        grep=grep,
        level=level,
        step=step,
        group=group,
        since=since,
        now=time.time(),
    )
    reader.logs(find(run), chosen, last=last, follow=follow, as_json=as_json)


@command("trace")
def trace(
    run: RunPath,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Its sequence, its id, or step:N for all of a batch.")],
    otlp: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="OTEL_EXPORTER_OTLP_ENDPOINT",
            help="Send the spans to this OpenTelemetry collector as well.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """One group's way through the system: who had it when, and what it waited for."""
    from orchestrator.commands import find
    from orchestrator.trace import command as tracer

    tracer.trace(find(run), group, as_json=as_json, otlp=otlp)


@command("top")
def top(
    run: RunPath,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One object with all figures, and end.")] = False,
) -> None:
    """A run as it lives: rates, queues, versions, what it learns, and who waits for whom. `q` quits."""
    from orchestrator.commands import find
    from orchestrator.top import command as viewer

    viewer.top(find(run), once=once, as_json=as_json)
