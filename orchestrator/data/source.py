"""One data set, opened: its good rows by index, what is left out of it, and the hash of its files."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.data.arrow import ArrowRows
from orchestrator.data.config import DataConfig, SourceConfig
from orchestrator.data.files import DataFiles, find_files
from orchestrator.data.order import Int64Array
from orchestrator.data.rows import MAX_PROBLEMS, JsonRows, Rows, refuse
from orchestrator.recipe import RecipeError


@dataclass(frozen=True, kw_only=True, slots=True)
class RawPrompt:
    """A row before it is tokenised."""

    text: str
    """The prompt, or the last turn of a chat that is not the assistant's."""
    turns: tuple[Mapping[str, Any], ...] | None
    """Of a chat, without the assistant's at its end; None where the row holds a text."""
    metadata: Mapping[str, Any]
    """JSON values; `prompt` holds the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    key: str
    """The recipe's section that describes it."""
    name: str
    """First part of its prompt_ids."""
    path: str
    weight: float
    config: SourceConfig
    files: DataFiles
    rows: Rows
    good: Int64Array
    """[n] indices of the rows that can be used, ascending"""
    bad: tuple[str, ...]
    """The first few bad rows, a line each."""
    digest: str
    """SHA-256 over names and content of its files: a cursor means something for these rows only."""

    def __len__(self) -> int:
        """Rows that can be used."""
        return len(self.good)

    @property
    def bad_rows(self) -> int:
        return len(self.rows) - len(self.good)

    def at(self, index: int) -> RawPrompt:
        """index: among all rows, as in a prompt_id."""
        row, config = self.rows.row(index), self.config
        turns = None if config.messages_column is None else _asked(row[config.messages_column])
        text = row[config.prompt_column] if turns is None else turns[-1]["content"] if turns else ""
        travels = row if config.metadata is None else {name: row[column] for name, column in config.metadata.items()}
        return RawPrompt(text=text, turns=turns, metadata={**travels, "prompt": text})

    def where(self, index: int) -> str:
        """The beginning of a line about a row."""
        return f"{self.key}.path = {self.path}: {self.rows.where(index)}"


def open_sources(config: DataConfig) -> tuple[Source, ...]:
    """Read and check every row of every data set. RecipeError: all that is wrong, unless data.max_bad_rows bears it."""
    sources: list[Source] = []
    problems: list[str] = []
    for key, one in config.each().items():
        try:
            sources.append(open_one(key, one))
        except RecipeError as error:
            problems += error.lines
    problems += _too_many_bad(config, sources)
    empty = [source for source in sources if not len(source)]
    problems += [f"{one.key}.path = {one.path}: all its rows are bad; correct them" for one in empty if not problems]
    if problems:
        raise RecipeError(problems)
    return tuple(sources)


def _too_many_bad(config: DataConfig, sources: Sequence[Source]) -> Iterator[str]:
    """Lines of the first bad rows, where there are more than the recipe bears."""
    bad = sum(source.bad_rows for source in sources)
    if bad <= config.max_bad_rows:
        return
    lines = [line for source in sources for line in source.bad][:MAX_PROBLEMS]
    yield from lines
    if bad > len(lines):
        yield f"… and {bad - len(lines)} more lines like these"
    if config.max_bad_rows:
        yield (
            f"data.max_bad_rows = {config.max_bad_rows}: {bad} rows are bad; correct them, or set data.max_bad_rows={bad}"
        )


def open_one(key: str, config: SourceConfig) -> Source:
    """Read and check every row of the data set that section `key` describes. RecipeError: there is no such, or no row."""
    files = find_files(config.path, split=config.split, field=f"{key}.path")
    rows: Rows = (JsonRows if files.kind == "jsonl" else ArrowRows)(files, config, key=key)
    if not len(rows):
        remedy = "put one JSON object on each line" if files.kind == "jsonl" else "give one with rows"
        refuse([f"{key}.path = {config.path}: the file is empty; {remedy}"])
    bad: set[int] = set()
    lines: list[str] = []
    for problem in rows.bad():
        bad.add(problem.index)
        if len(lines) < MAX_PROBLEMS:
            lines.append(problem.line)
    return Source(
        key=key,
        name=config.dataset,
        path=config.path,
        weight=config.weight,
        config=config,
        files=files,
        rows=rows,
        good=np.delete(np.arange(len(rows)), sorted(bad)),
        bad=tuple(lines),
        digest=_digest(files),
    )


def _digest(data: DataFiles) -> str:
    digest = hashlib.sha256()
    for file in data.files:
        digest.update(f"{data.name(file)} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _asked(turns: list[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The turns up to the last that is not the assistant's; Arrow writes null for a key that a turn lacks."""
    end = len(turns)
    while end and turns[end - 1]["role"] == "assistant":
        end -= 1
    return tuple({name: value for name, value in turn.items() if value is not None} for turn in turns[:end])
