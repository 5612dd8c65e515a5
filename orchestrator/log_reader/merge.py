"""The logs of all processes of a run as one, in the order of their times."""

import heapq
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.log_reader.entry import Entry, parse
from orchestrator.log_reader.tail import Tail


def entries(folder: Path, *, worth: Callable[[str], bool] = bool) -> Iterator[Entry]:
    """Of all files as they are now, one line of each in memory. Within a file lines keep their order, whatever the clock did.

    `worth`: whether a line's text is to be read at all.
    """
    files = (_of_file(path, worth) for path in sorted(folder.glob("*.jsonl")))
    return heapq.merge(*files, key=lambda entry: entry.at)


def _of_file(path: Path, worth: Callable[[str], bool]) -> Iterator[Entry]:
    at = 0.0
    with path.open("rb") as file:
        for line in file:
            text = line.decode(errors="replace").strip()
            if not text or not worth(text):
                continue
            entry = parse(text, worker=path.stem, before=at)
            at = max(at, entry.at)
            yield entry


class Growing:
    """new() gives what was logged since the last call, ordered by time; files that appear later are read from their start.

    What was written while the files were looked at one after the other may come with the next call, behind later lines.
    """

    def __init__(self, folder: Path, *, last_bytes: int | None = None) -> None:
        """`last_bytes`: read of each file that is there at the first look, at most."""
        self._folder, self._last_bytes = folder, last_bytes
        self._tails: dict[Path, Tail] = {}
        self._at: dict[Path, float] = {}

    def new(self) -> list[Entry]:
        found: list[Entry] = []
        for path in sorted(self._folder.glob("*.jsonl")):
            tail = self._tails.setdefault(path, Tail(path, last_bytes=self._last_bytes))
            for line in tail.new():
                if line.strip():
                    entry = parse(line, worker=path.stem, before=self._at.get(path, 0.0))
                    self._at[path] = max(self._at.get(path, 0.0), entry.at)
                    found.append(entry)
        self._last_bytes = None
        return sorted(found, key=lambda entry: entry.at)
