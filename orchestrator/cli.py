"""The command: parse, check, do. Each subcommand stands in a file of orchestrator/subcommands.

Heavy libraries are imported by the commands, after parsing: `--help` answers at once.
"""

import logging
import signal
import sys

import typer
from typer.exceptions import TyperException

from orchestrator.subcommands import doctor, loop, making, reporting, runs, watching  # each registers its commands
from orchestrator.subcommands.door import app

__all__ = ["app", "doctor", "loop", "main", "making", "reporting", "runs", "watching"]


def main() -> None:
    logging.getLogger().addHandler(logging.NullHandler())  # commands that keep a log say where; others stay silent
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # see orchestrator.entry
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):  # while the command line was read
        code = 130
    except TyperException as error:  # a command line that it cannot read; empty where it has shown the help instead
        context = getattr(error, "ctx", None)
        how = f"{context.command_path if context else 'headrace'} --help"
        if error.format_message():
            print(f"headrace: {error.format_message().rstrip('.')}; `{how}` shows what there is", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)
