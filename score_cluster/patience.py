"""Waits for a user's code only so long: Python cannot end a call that does not return, but its caller can go on."""

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

LEFT_BEHIND_LIMIT = 8
"""Calls that never returned, each with a thread and whatever it holds, until the process should make room for a new one."""


class OutOfPatience(TimeoutError):
    """The call has not returned in time, and goes on in a thread that nobody waits for."""


class Patience:
    """call(work) gives what it returns or raises, from one thread for all calls: another one follows a call that hangs."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.left_behind = 0
        """Calls that were given up; some may have returned since."""
        self._hand: _Hand[Any] | None = None

    def call(self, work: Callable[[], T]) -> T:
        """OutOfPatience: it took longer than `timeout_s`."""
        hand = self._hand = self._hand or _Hand()
        try:
            value, error = hand.do(work, timeout_s=self.timeout_s)
        except queue.Empty:
            self._hand = None
            self.left_behind += 1
            raise OutOfPatience(f"did not return within {self.timeout_s:g} s") from None
        if error is not None:
            raise error
        return value

    @property
    def exhausted(self) -> bool:
        return self.left_behind >= LEFT_BEHIND_LIMIT


class _Hand(Generic[T]):
    """One daemon thread: the process may end while it hangs."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="rewards", daemon=True).start()

    def do(self, work: Callable[[], T], *, timeout_s: float) -> tuple[Any, BaseException | None]:
        """(value, error). queue.Empty: nothing came in time."""
        self._todo.put(work)
        return self._done.get(timeout=timeout_s)

    def _work(self) -> None:
        while True:
            work = self._todo.get()
            try:
                self._done.put((work(), None))
            except BaseException as error:  # the caller's to handle, whatever it is
                self._done.put((None, error))
            del work
