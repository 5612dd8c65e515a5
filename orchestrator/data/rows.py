"""The rows of a data set as files give them: what every kind of file must answer, and JSON lines."""

import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from orchestrator.data.config import SourceConfig
from orchestrator.data.files import DataFiles, called
from orchestrator.recipe import RecipeError

MAX_PROBLEMS = 20
"""Bad rows that are shown; the rest is counted."""
_SCAN_BYTES = 1024**2
"""Of a file searched for line ends at a time: the search needs ten times as much memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    index: int
    line: str
    """`field = value: reason; remedy`, with file and number."""


class Rows(Protocol):
    """Rows by index, bad ones included, over all files of a data set; readable without loading them all as objects.

    An index counts from 0 over all files; the numbers that users see count from 1 within a file.
    """

    left_out: Mapping[str, str]
    """{column: its type} of what JSON cannot carry, so that it does not reach the reward functions."""

    def __len__(self) -> int: ...

    def bad(self) -> Iterator[BadRow]:
        """Checks every row, in order; a bad row may come more than once."""

    def row(self, index: int) -> Mapping[str, Any]:
        """The columns that are used, JSON values only, of a row that is not bad."""

    def where(self, index: int) -> str:
        """`line 7` or `row 7`, and of which file where there are several."""


class JsonRows:
    """Files of one JSON object a line, blank lines left out. The files stay on disk; read and parsed is what is asked for."""

    left_out: Mapping[str, str]

    def __init__(self, data: DataFiles, config: SourceConfig, *, key: str) -> None:
        """key: the recipe's section that holds `config`. RecipeError: a file cannot be read, or is no such file."""
        self._data, self._config, self._key = data, config, key
        self.left_out = {}
        self._lines = [
            _Lines(file, where=f"{key}.path = {data.root}: {called(file, data.root)}") for file in data.files
        ]
        self._starts = np.cumsum([0, *(len(lines) for lines in self._lines)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, index: int) -> Mapping[str, Any]:
        number, within = self._locate(index)
        try:
            return parse_row(self._lines[number].at(within))
        except ValueError as error:
            problem = f"{self._data.files[number]}: {self.where(index)} {error}, and did not when it was checked"
            raise OSError(f"{problem}; restore the file") from error

    def where(self, index: int) -> str:
        number, within = self._locate(index)
        return located("line", int(self._lines[number].numbers[within]), self._data, number)

    def bad(self) -> Iterator[BadRow]:
        columns = required_columns(self._config, key=self._key)
        for index, line in enumerate(chain.from_iterable(self._lines)):
            try:
                row = parse_row(line)
                _check_carries(row, self._config)
            except ValueError as error:
                problem = f"{self._key}.path = {self._data.root}: {self.where(index)} {error}; correct the line"
                yield BadRow(index=index, line=problem)
                continue
            for problem in self._column_problems(index, row, columns):
                yield BadRow(index=index, line=problem)

    def _column_problems(self, index: int, row: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[str]:
        for field, column in columns.items():
            at = f"{field} = {column}"
            if column not in row:
                yield f"{at}: {self._place(index)} {missing_column(field, column, row)}"
                continue
            problem = ""
            if field.endswith(".prompt_column"):
                problem = _text_problem(row[column], key=self._key, column=column)
            elif field.endswith(".messages_column"):
                problem = _turns_problem(row[column])
            if problem:
                yield f"{at}: {self._place(index)} {problem}"

    def _place(self, index: int) -> str:
        number, within = self._locate(index)
        return f"line {int(self._lines[number].numbers[within])} of {self._data.files[number]}"

    def _locate(self, index: int) -> tuple[int, int]:
        number = bisect_right(self._starts, index) - 1
        return number, index - int(self._starts[number])


class _Lines:
    """The lines of a file that are not blank; read, not mapped: a mapped file that is cut short ends the process."""

    def __init__(self, file: Path, *, where: str) -> None:
        try:
            self._file = file.open("rb")
            ends, inked = _scan(self._file)
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise RecipeError([f"{where}{problem}; give a file of prompts"]) from None
        head = os.pread(self._file.fileno(), 64, 0)
        first = 3 if head[:3] == b"\xef\xbb\xbf" else 0
        starts = np.concatenate([[first], ends[:-1] + 1])
        kept = np.flatnonzero(np.diff(inked, prepend=first) > 0)
        self._from, self._to, self.numbers = starts[kept], ends[kept], kept + 1
        if head[first:].lstrip()[:1] == b"[" and not self._object_follows():
            problem = "is one JSON array, not one JSON object a line"
            raise RecipeError([f"{where}{problem}; write each of its entries on a line of its own"])

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[bytes]:
        return (self.at(index) for index in range(len(self)))

    def at(self, index: int) -> bytes:
        """OSError: the file is not what it was when it was opened."""
        start, end = int(self._from[index]), int(self._to[index])
        line = os.pread(self._file.fileno(), end - start, start)
        if len(line) < end - start:
            raise OSError(f"{self._file.name} was cut short while it was in use; restore it")
        return line

    def _object_follows(self) -> bool:
        """Whether the second line is an object that ends where the line ends: then the first is only a bad row."""
        return len(self) > 1 and self.at(1).strip().startswith(b"{") and self.at(1).strip().endswith(b"}")


def _scan(stream: BinaryIO) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """[lines] where each line ends, and the bytes up to there that are not blank."""
    ends, inked, at, ink = [], [], 0, 0
    while chunk := stream.read(_SCAN_BYTES):
        view = np.frombuffer(chunk, np.uint8)
        sums = np.cumsum((view != 0x20) & ((view < 0x09) | (view > 0x0D)), dtype=np.int64) + ink
        found = np.flatnonzero(view == 0x0A)
        ends.append(found + at)
        inked.append(sums[found])
        at, ink = at + len(chunk), int(sums[-1])
    return np.concatenate([*ends, [at]]).astype(np.int64), np.concatenate([*inked, [ink]]).astype(np.int64)


def parse_row(line: bytes) -> dict[str, Any]:
    """ValueError: says what is wrong with the line."""
    try:
        row = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the name {double} twice")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_once)


def _check_carries(row: Mapping[str, Any], config: SourceConfig) -> None:
    """ValueError: what of the row travels has no wire form (a number of more than 64 bits, half a surrogate pair)."""
    used = config.messages_column or config.prompt_column
    travels = row if config.metadata is None else {c: row.get(c) for c in (used, *config.metadata.values())}
    try:
        msgspec.msgpack.encode(travels)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot travel ({error})") from None


def required_columns(config: SourceConfig, *, key: str) -> dict[str, str]:
    """{the recipe's key: column} of every column that each row must have."""
    mapped = {f"{key}.metadata.{name}": column for name, column in (config.metadata or {}).items()}
    if config.messages_column is not None:
        return {f"{key}.messages_column": config.messages_column, **mapped}
    return {f"{key}.prompt_column": config.prompt_column, **mapped}


def missing_column(field: str, column: str, present: Mapping[str, Any] | Sequence[str]) -> str:
    names = list(present)
    near = get_close_matches(column, names, n=1, cutoff=0.0)
    remedy = f"set {field}={near[0]} or add the column" if near else "add the column"
    shown = ", ".join(names) or "none"
    return f"has no such column, only {shown[:200]}; {remedy}"


def located(unit: str, number: int, data: DataFiles, file: int) -> str:
    single = data.files == (data.root,)
    return f"{unit} {number}" if single else f"{unit} {number} of {data.name(data.files[file])}"


def turns_in(value: Any) -> bool:
    """Whether it is chat turns: a filled list of {role, content}, both text."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) for turn in value)
        and all(isinstance(turn.get(name), str) for turn in value for name in ("role", "content"))
    )


def _text_problem(value: Any, *, key: str, column: str) -> str:
    if isinstance(value, str):
        return ""
    remedy = f"set {key}.messages_column={column}" if turns_in(value) else "correct the line"
    return f"holds {_shown(value)} there, not text; {remedy}"


def _turns_problem(value: Any) -> str:
    return "" if turns_in(value) else f"holds {_shown(value)} there, not a list of {{role, content}}; correct the line"


def _shown(value: Any) -> str:
    return json.dumps(value)[:40]


def refuse(problems: Sequence[str]) -> None:
    """RecipeError with the first of them, if there are any."""
    if len(problems) > MAX_PROBLEMS:
        rest = f"… and {len(problems) - MAX_PROBLEMS} more lines like these"
        raise RecipeError([*problems[:MAX_PROBLEMS], rest])
    if problems:
        raise RecipeError(problems)
