"""Reads what a run has left, however long, however damaged: what cannot be read is counted and left out."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

LARGEST = 1e300
"""Of a number that can be drawn; beyond it, and for NaN, there is a gap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """The JSON objects of a file, in its order."""

    rows: tuple[dict[str, Any], ...]
    damaged: int
    """Lines that are no JSON object."""
    sampled: bool
    """The file is longer than the budget: its beginning and end are whole, of the middle there are single lines."""


def read_lines(path: Path, *, budget_bytes: int) -> Lines:
    """No file: no lines. Costs no more than parsing about `budget_bytes`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= budget_bytes:
                return _parsed(file.read().splitlines(), sampled=False)
            return _parsed(list(_some(file, size, budget_bytes)), sampled=True)
    except FileNotFoundError:
        return Lines(rows=(), damaged=0, sampled=False)


def number(row: Mapping[str, Any], *names: str) -> float | None:
    """A finite number at this place of nested objects, None for anything else."""
    value: Any = row
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST < value < LARGEST else None


def numbers(row: Mapping[str, Any], *names: str) -> dict[str, float]:
    """Of an object at this place: its entries that are finite numbers."""
    inner: Any = row
    for name in names:
        inner = inner.get(name) if isinstance(inner, dict) else None
    if not isinstance(inner, dict):
        return {}
    return {str(key): value for key in inner if (value := number(inner, key)) is not None}


def seconds(row: Mapping[str, Any], name: str = "time") -> float | None:
    """Unix seconds of an ISO time."""
    try:
        return datetime.fromisoformat(str(row.get(name))).timestamp()
    except (ValueError, OverflowError):
        return None


def _parsed(lines: list[bytes], *, sampled: bool) -> Lines:
    rows, damaged = [], 0
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            rows.append(found)
        elif line.strip():
            damaged += 1
    return Lines(rows=tuple(rows), damaged=damaged, sampled=sampled)


def _some(file: Any, size: int, budget_bytes: int) -> Iterator[bytes]:
    """A quarter of the budget from either end, and between them lines at even distances."""
    end_bytes = budget_bytes // 4
    head = file.read(end_bytes).splitlines()[:-1]
    yield from head
    file.seek(size - end_bytes)
    tail = file.read().splitlines()[1:]
    longest = max(map(len, [*head, *tail]), default=1) + 1
    count = max(1, budget_bytes // 2 // longest)
    middle = size - 2 * end_bytes
    last = -1
    for at in range(count):
        file.seek(end_bytes + at * middle // count)
        file.readline()
        place = file.tell()
        if last < place < size - end_bytes:
            last = place
            yield file.readline()
    yield from tail
