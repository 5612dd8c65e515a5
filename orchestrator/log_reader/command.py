"""`headrace logs`: what the processes of a run logged, as one, and what they log meanwhile."""

import json
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable
from itertools import chain

from orchestrator.folder import RunFolder
from orchestrator.log_reader.choice import Choice
from orchestrator.log_reader.entry import Entry
from orchestrator.log_reader.merge import Growing, entries
from orchestrator.log_reader.text import render

LOOK_S = 0.3
"""Between two looks at files that grow: soon enough for people, and no load where they lie on a network."""


def logs(folder: RunFolder, choice: Choice, *, last: int | None, follow: bool, as_json: bool) -> None:
    """`last`: only so many of the lines that are there. `follow`: then what comes, until the run's driver has ended."""
    _check(folder, choice, follow=follow)
    colour = sys.stdout.isatty() and not as_json and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def show(found: Iterable[Entry]) -> None:
        for entry in found:
            print(json.dumps(entry.fields) if as_json else render(entry, colour=colour))
        sys.stdout.flush()

    if not follow:
        chosen = filter(choice, entries(folder.logs))
        show(chosen if last is None else deque(chosen, maxlen=last))
        return
    growing = Growing(folder.logs)
    first = filter(choice, growing.new())
    show(first if last is None else deque(first, maxlen=last))
    pause = threading.Event()
    while _may_grow(folder):
        pause.wait(LOOK_S)
        show(filter(choice, growing.new()))
    show(filter(choice, growing.new()))


def _may_grow(folder: RunFolder) -> bool:
    """A driver lives, or one on a host whose lock does not reach us may: then only the reader ends it."""
    return folder.driver_pid() is not None or bool(folder.other_host())


def _check(folder: RunFolder, choice: Choice, *, follow: bool) -> None:
    """ValueError: there is nothing to read, or a worker was named that logged nothing and is not waited for."""
    names = sorted(path.stem for path in folder.logs.glob("*.jsonl"))
    if not names and not follow:
        raise ValueError(f"{folder.logs}: no process of this run has logged anything; has it been started?")
    roles = {name.partition("-")[0] for name in names}
    asked = chain(
        (("--worker", name) for name in choice.workers if name not in names),
        (("--role", role) for role in choice.roles if role not in roles),
    )
    for option, value in () if follow else asked:
        raise ValueError(f"{option} = {value}: nobody of that name logs here; there are {', '.join(names)}")
