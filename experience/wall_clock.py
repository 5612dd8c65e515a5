"""Where a process spends its time: a clock that is in one phase at any moment, so that phases add up to wall time."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class WallClock:
    """Runs from its making on, in the first of its phases until another is entered; some 0.5 µs for each change.

    One thread changes phases, any may read: the lock is held for a few operations, so that no reader sees a moment twice.
    """

    def __init__(
        self, phases: Sequence[str], *, began: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """began: on `clock`, where the owner began before it could make this; None = now."""
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(phases, 0.0)
        self.began = self._since = clock() if began is None else began
        self._phase = phases[0]

    @property
    def phase(self) -> str:
        """The running one."""
        return self._phase

    def enter(self, phase: str) -> str:
        """From now on in `phase`, which must be one of the clock's; returns the one that ends."""
        assert phase in self._seconds, phase
        before = self._phase
        if phase != before:
            with self._lock:
                now = self._clock()
                self._seconds[before] += now - self._since
                self._phase, self._since = phase, now
        return before

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """In `phase`, and then again in the one that it interrupts."""
        before = self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def seconds(self) -> dict[str, float]:
        """By phase, the running one up to now."""
        with self._lock:
            found = dict(self._seconds)
            found[self._phase] += self._clock() - self._since
        return found

    def told(self) -> dict[str, float]:
        """The same in milliseconds' precision, for records that people read."""
        return {phase: round(seconds, 3) for phase, seconds in self.seconds().items()}


class WallSeconds(Collector):
    """Exports the seconds of one clock as the counter `name{label}`, each scrape as of its own moment."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._shown: WallClock | None = None
        registry.register(self)

    def shows(self, clock: WallClock) -> WallClock:
        """From now on this one: a process holds one worker at a time."""
        self._shown = clock
        return clock

    def describe(self) -> Iterable[CounterMetricFamily]:
        return [CounterMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for phase, seconds in (self._shown.seconds() if self._shown else {}).items():
            family.add_metric([phase], seconds)
        return [family]
