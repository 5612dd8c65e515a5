"""Keeps a worker's leases alive while it works: a thread that renews them at a third of their length."""

import logging
import math
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from experience.buffer import ExperienceBuffer, Lease

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews the held leases while the context is open; can be entered again.

    An owner that calls none of the following for `silent_s` hangs, though this thread lives: its leases are renewed no
    longer, and go to others when they run out. Should it come back, it finds them lost.

    hold(leases)   from now on renewed
    drop(leases)   no longer: call it before `release`, and after `advance`
    lost()         entry_ids among the held whose lease went to another worker: stop working on them, then drop them

    An error of the thread (Fenced, BufferUnavailable) is raised in the owner by the next call of any of these, and on
    leaving the context.
    """

    def __init__(self, buffer: ExperienceBuffer, lease_s: float, *, silent_s: float = math.inf) -> None:
        self._buffer = buffer
        self._interval_s = lease_s / 3
        self._silent_s = silent_s
        self._heard_at = time.monotonic()
        self._held: dict[str, Lease] = {}
        self._lost: set[str] = set()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, leases: Iterable[Lease]) -> None:
        self._hear()
        with self._lock:
            self._held |= {lease.entry_id: lease for lease in leases}

    def drop(self, leases: Iterable[Lease]) -> None:
        self._hear()
        with self._lock:
            for lease in leases:
                self._held.pop(lease.entry_id, None)
                self._lost.discard(lease.entry_id)

    def lost(self) -> set[str]:
        self._hear()
        with self._lock:
            return set(self._lost)

    def __enter__(self) -> Self:
        self._hear()
        self._stop.clear()
        self._thread = threading.Thread(target=self._renew_until_stopped, name="lease-keeper", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._held.clear()
            self._lost.clear()
        if error is None:
            self._raise_error()

    def _renew_until_stopped(self) -> None:
        """Ends when the context is left, or at the first error."""
        while not self._stop.wait(self._interval_s):
            with self._lock:
                leases = [lease for entry_id, lease in self._held.items() if entry_id not in self._lost]
            if not leases or self._hangs(len(leases)):
                continue
            try:
                lost = self._buffer.renew(leases)
            except BaseException as error:
                self._error = error
                return
            with self._lock:
                self._lost |= lost & self._held.keys()

    def _hear(self) -> None:
        self._heard_at = time.monotonic()
        self._raise_error()

    def _hangs(self, held: int) -> bool:
        silent_s = time.monotonic() - self._heard_at
        if silent_s > self._silent_s:
            log.error("worker hangs, its leases run out", extra={"silent_s": round(silent_s, 1), "leases": held})
        return silent_s > self._silent_s

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
