"""`headrace top`: the live view of a run, or one frame of it."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from io import StringIO

from rich.console import Console
from rich.text import Text

from orchestrator import recipe as recipes
from orchestrator.folder import RunFolder
from orchestrator.top.frame import frame, plain
from orchestrator.top.sources import Sources
from orchestrator.top.view import View, view

REFRESH_S = 1.0
"""A driver writes its status so often."""
_ONCE_LINES = 60
"""Of a frame that is printed: it scrolls."""
_ASCII = str.maketrans("▁▂▃▄▅▆▇█░─│╭╮╰╯┘└▲▶·–×…", "._-:=+*##-|++++++^>|-x.")
"""For terminals that show no others."""


def top(folder: RunFolder, *, once: bool, as_json: bool) -> None:
    """Until `q`, Ctrl-C or a signal; one frame where nobody could see it change."""
    recipe, sources = recipes.load_dumped(folder.recipe), Sources(folder)

    def now() -> View:
        try:
            return view(sources.look(time.time()), recipe)
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(
                f"{folder.path}: status.json or timeline.jsonl holds what no run of this version writes "
                f"({type(error).__name__}: {error}); remedy: read on with the version that wrote them, or `headrace logs`"
            ) from error

    if as_json:
        print(json.dumps(now().as_dict(), indent=1))
    elif once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        columns = shutil.get_terminal_size().columns
        print("\n".join(rendered(frame(now(), width=columns, height=_ONCE_LINES), width=columns)))
    else:
        _live(now)


def _live(now: Callable[[], View]) -> None:
    from orchestrator.top.screen import Screen  # termios: not on every system

    with Screen().shown() as screen:
        while True:
            size = os.get_terminal_size(sys.stdout.fileno())
            width, height = max(size.columns, 20), max(size.lines, 2)
            lines = frame(now(), width=width, height=height - 1)
            lines += [Text("")] * (height - 1 - len(lines))
            screen.draw(rendered([*lines, Text("q quits", style="dim")], width=width))
            if "q" in screen.wait(REFRESH_S).lower():
                return


def rendered(lines: Sequence[Text], *, width: int) -> list[str]:
    """With colours where the terminal has any, and NO_COLOR is not set."""
    found = plain(lines)
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        buffer = StringIO()
        console = Console(file=buffer, force_terminal=True, width=width, highlight=False, legacy_windows=False)
        console.print(Text("\n").join(lines), soft_wrap=True, end="")
        found = buffer.getvalue().split("\n")
    encoding = sys.stdout.encoding or "ascii"
    if "█".encode(encoding, "replace") == b"?":
        found = [line.translate(_ASCII).encode(encoding, "replace").decode(encoding) for line in found]
    return found
