"""The door of every command: what registers it, and turns what went wrong into one line and an exit code.

Exit codes: 0 done (or stopped cleanly), 1 the run failed, 2 the user's mistake, 130 interrupted.
"""

import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from orchestrator.errors import DeliveryFailed, EvaluationFailed, RunFailed
from weightstore.blobs import StoreError

PANELS: Mapping[str, tuple[str, ...]] = {
    "Run": ("doctor", "data", "run", "pipeline", "resume", "stop"),
    "Watch": ("top", "status", "logs", "trace", "report"),
    "Make models": ("sft", "reward", "export"),
    "Compare": ("eval",),
    "Keep house": ("audit", "runs"),
}
"""How `headrace --help` groups the commands, in this order."""


class _InPanels(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        listed = [name for names in PANELS.values() for name in names if name in self.commands]
        return [*listed, *(name for name in self.commands if name not in listed)]


def _panel(name: str) -> str | None:
    return next((panel for panel, names in PANELS.items() if name in names), None)


app = typer.Typer(
    cls=_InPanels,
    help="Reinforcement learning from human feedback on three decoupled clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file.", show_default=False)]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its name below ./runs.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings that replace the recipe's.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output instead of text.")]

runs_app = typer.Typer(help="List and remove runs.", no_args_is_help=True)
app.add_typer(runs_app, name="runs", rich_help_panel=_panel("runs"))
reward_app = typer.Typer(help="Train reward models on pairs of answers, and score with them.", no_args_is_help=True)
app.add_typer(reward_app, name="reward", rich_help_panel=_panel("reward"))


def command(name: str, *, group: typer.Typer = app) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose errors reach the user as one line each, never as a traceback."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(*arguments: Any, **named: Any) -> None:
            _prepare_output()
            try:
                function(*arguments, **named)
            except (typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt:
                raise typer.Exit(130) from None
            except BrokenPipeError:  # whoever read our output has gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except ValueError as error:
                _fail(str(error), code=2)
            except (RunFailed, EvaluationFailed, DeliveryFailed, StoreError) as error:
                _fail(str(error), code=1)
            except OSError as error:
                if os.environ.get("HEADRACE_DEBUG"):
                    raise
                _fail(_said(error), code=1)
            except Exception as error:  # the last door; a run's driver has logged the traceback already
                if os.environ.get("HEADRACE_DEBUG"):
                    raise
                line = f"internal error: {type(error).__name__}: {error} (HEADRACE_DEBUG=1 shows where)"
                _fail(line, code=1)

        return group.command(name, rich_help_panel=_panel(name) if group is app else None)(run)

    return register


def _prepare_output() -> None:
    """Something to print to where a service manager gave nothing, and no character that ends a command: a locale may lack
    the picture's, and a log holds half a surrogate pair."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def _said(error: OSError) -> str:
    """Of a file that cannot be used, which; nothing else has a name here, but the output that a disk does not take."""
    if error.filename is not None:
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
        return (
            f"{where}: {error.strerror}; remedy: see who may read and write there (HEADRACE_DEBUG=1 shows what asked)"
        )
    return f"internal error: {type(error).__name__}: {error} (HEADRACE_DEBUG=1 shows where)"


def _fail(message: str, *, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"headrace: {line}", file=sys.stderr)
    raise typer.Exit(code) from None
