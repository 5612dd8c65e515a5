"""Places of the order, prepared ahead of the loop by a thread of its own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

CHUNK_PLACES = 64
"""Prepared together: fast tokenizers gain from batches, and the first prompts of a run wait for one chunk only."""
AHEAD_PLACES = 1024
"""Kept ready beyond the place that was asked for: more than the loop takes while one chunk is prepared (some 10 ms)."""


class Lookahead(Generic[T]):
    """at(place) gives what `prepare(range)` makes of it: at once if the thread has come so far, else when it has.

    What is given depends on the place alone; only the moment at which it is made depends on what was asked before. An
    error of the thread is raised where its place is asked for.
    """

    def __init__(self, prepare: Callable[[range], list[T]]) -> None:
        self._prepare = prepare
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")
        self._chunks: dict[int, Future[list[T]]] = {}

    def at(self, place: int) -> T:
        number, within = divmod(place, CHUNK_PLACES)
        for ahead in range(number, number + 1 + AHEAD_PLACES // CHUNK_PLACES):
            if ahead not in self._chunks:
                places = range(ahead * CHUNK_PLACES, (ahead + 1) * CHUNK_PLACES)
                self._chunks[ahead] = self._thread.submit(self._prepare, places)
        for behind in [one for one in self._chunks if one < number]:
            del self._chunks[behind]
        return self._chunks[number].result()[within]
