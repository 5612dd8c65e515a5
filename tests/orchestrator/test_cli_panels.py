"""`headrace --help` groups the commands: each stands in one panel, and every name of a panel is a command."""

import typer
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.subcommands.door import PANELS


def test_every_command_stands_in_one_panel() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    placed = [name for names in PANELS.values() for name in names]
    assert sorted(placed) == sorted(commands)


def test_help_shows_the_panels_in_their_order() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    places = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    assert shown.index(" doctor ") < shown.index(" run ") < shown.index(" top ") < shown.index(" runs ")
