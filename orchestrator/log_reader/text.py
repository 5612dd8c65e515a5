"""A line of a log for people: time, worker, level, event, and what the call said beside it."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from orchestrator.log_reader.entry import Entry

_WORKER_WIDTH = 8
_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}
"""By level, as terminals number them; `info` has the terminal's own."""
_WORKERS = ("36", "32", "35", "34", "33", "96", "92", "95", "94")
_SHORT = {"warning": "warn", "critical": "crit"}


def render(entry: Entry, *, colour: bool = False) -> str:
    """One line, and those of its traceback below it."""
    when = f"{datetime.fromtimestamp(entry.at):%m-%d %H:%M:%S}.{int(entry.at * 1000) % 1000:03}"
    worker = f"{printable(entry.worker):{_WORKER_WIDTH}}"
    level = f"{_SHORT.get(entry.level, entry.level):5}"
    shown = entry.extra | ({"groups": ranges(entry.groups)} if "groups" in entry.extra else {})
    said = "  ".join(f"{printable(key)}={_value(value)}" for key, value in shown.items())
    event = printable(entry.event)
    if colour:
        when, said = _in("2", when), _in("2", said) if said else ""
        worker = _in(_WORKERS[sum(map(ord, entry.worker)) % len(_WORKERS)], worker)
        painted = _COLOURS.get(entry.level)
        level, event = (_in(painted, level), _in(painted, event)) if painted else (level, event)
    line = f"{when} {worker} {level} {event}{'  ' * bool(said)}{said}"
    traceback = entry.fields.get("traceback")
    return line if not isinstance(traceback, str) else "\n".join([line, *_indented(traceback)])


def ranges(numbers: Iterable[int]) -> str:
    """0–3, 7: what stands for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)


def printable(text: str) -> str:
    """What a model or a library wrote must not steer the reader's terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def _value(value: Any) -> str:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(json.dumps(value))


def _indented(traceback: str) -> list[str]:
    return [f"    {printable(line)}" for line in traceback.splitlines()]


def _in(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m"
