"""Work that goes on beside training, one piece at a time, whose failure is never overlooked."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

POLL_INTERVAL_S = 0.05
"""Between looks into a store for what another rank writes; a store has no other way to tell."""


class Cancelled(RuntimeError):
    """The process ends before the work is done; what it wrote so far is invisible."""


class Background(Generic[T]):
    """A thread for one numbered piece of work at a time. A piece that failed raises at the next call of any method."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._cancelled = threading.Event()
        self._number: int | None = None
        self._task: Future[T] | None = None

    def start(self, number: int, work: Callable[[], T]) -> None:
        """Begin; waits for the piece before it, since its copy of the tensors is memory."""
        if self._task is not None:
            self._task.result()
        self._number, self._task = number, self._pool.submit(work)

    def check(self) -> None:
        """Raise what the last piece raised."""
        if self._task is not None and self._task.done():
            self._task.result()

    def result(self, number: int, *, timeout_s: float) -> T:
        """What piece `number`, the last one begun, has given. TimeoutError: it is still at work."""
        if self._task is None or self._number != number:
            raise ValueError(f"{number} was not the last to be started, that is {self._number}")
        return self._task.result(timeout_s)

    def cancelled(self) -> bool:
        """Asked by work that waits."""
        return self._cancelled.is_set()

    def await_all(self, arrived: Callable[[str], bool], keys: list[str], *, deadline_s: float) -> None:
        """Inside a piece of work: wait until every key has arrived. TimeoutError names those that did not."""
        deadline = time.monotonic() + deadline_s
        missing = keys
        while missing := [key for key in missing if not arrived(key)]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{', '.join(missing)}: not written within {deadline_s} s")
            if self._cancelled.wait(POLL_INTERVAL_S):
                raise Cancelled(f"the process ends; {', '.join(missing)} had not been written")

    def close(self) -> None:
        self._cancelled.set()
        self._pool.shutdown(wait=False)
