"""A sink behind a bounded queue, in a thread of its own: one that fails, hangs or is slow costs lines, never the run a moment.

    run ── put, never blocks ─▶ queue ─▶ thread: open, write, write, …, close

A line that finds the queue full is dropped, and so is one at which the sink raises; the next one is tried again, since a
service may come back. What could not be opened takes nothing.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from orchestrator.sinks.metrics import DROPPED
from orchestrator.sinks.sink import Sink

log = logging.getLogger(__name__)

_Call = Callable[[Sink], None]


class Channel:
    def __init__(
        self,
        name: str,
        open_sink: Callable[[], Sink],
        *,
        lines: int,
        warn: Callable[[str], None],
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        """`open_sink` is called in the thread: it may load libraries and ask servers. `warn`: once, from any thread.
        `abandon`: ends what would keep the process at its exit, where the sink did not end in time.
        """
        self._name, self._open, self._warn, self._abandon = name, open_sink, warn, abandon
        self._queue: queue.Queue[_Call | None] = queue.Queue(maxsize=lines)
        self._state = "failed"
        self._ending = threading.Event()
        self._warned = threading.Lock()
        DROPPED.labels(name)  # shown from the start
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()  # a daemon: one that hangs must not keep the process

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._put(lambda sink: sink.write(step, figures))

    def event(self, step: int, text: str) -> None:
        self._put(lambda sink: sink.event(step, text))

    def end(self, state: str) -> None:
        """Nothing comes after. Never blocks: a thread that finds its queue full sees it once it has emptied it."""
        self._state = state
        self._ending.set()
        with suppress(queue.Full):
            self._queue.put_nowait(None)

    def finished(self, deadline: float) -> None:
        """Return when all is written and closed, or at `deadline` (monotonic), with what is left given up."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._lose(self._queue.qsize(), "it did not end in time (sinks.close_s)")
            self._give_up()

    def _put(self, call: _Call) -> None:
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._lose(1, "it is slower than the run, and its queue is full (sinks.queue_lines)")

    def _run(self) -> None:
        sink = self._opened()
        while not (self._ending.is_set() and self._queue.empty()) and (call := self._queue.get()) is not None:
            if sink is None:
                self._lose(1, "it could not be opened")
            else:
                self._do(sink, call, lost=1)
        if sink is not None:
            self._do(sink, lambda one: one.close(self._state), lost=0)

    def _opened(self) -> Sink | None:
        try:
            return self._open()
        except Exception as error:  # whatever a service or its library raises ends no run
            self._lose(0, describe(error))
            return None

    def _do(self, sink: Sink, call: _Call, *, lost: int) -> None:
        try:
            call(sink)
        except Exception as error:  # the same
            self._lose(lost, describe(error))

    def _give_up(self) -> None:
        try:
            self._abandon()
        except Exception as error:  # another version of its library, say: the exit may then wait for it
            log.warning("sink not abandoned", extra={"sink": self._name, "cause": describe(error)})

    def _lose(self, lines: int, why: str) -> None:
        DROPPED.labels(self._name).inc(lines)
        if self._warned.acquire(blocking=False):  # the first one alone
            line = f"sinks.{self._name}: {why}; figures are missing there, the run goes on (metrics.jsonl has all)"
            log.warning("sink failed", extra={"sink": self._name, "cause": why})
            self._warn(line)


def describe(error: Exception) -> str:
    """One line. The library's own words are left out: they may repeat an address with a key, or a header."""
    cause = error.__cause__ or error.__context__
    return f"{type(error).__name__}{f' after {type(cause).__name__}' if cause else ''}"
