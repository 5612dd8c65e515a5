"""What a server of groups has lost of what it had acknowledged, noticed while the run lives, and mended from the ledger.

It happens to a server without appendfsync always that was killed, to one restored from a snapshot, and to a flushed one.
"""

import logging
from collections.abc import Callable

from experience.buffer import BufferLost, ExperienceBuffer, Snapshot

log = logging.getLogger(__name__)


class LossWatch:
    """snapshot(committed) reads the buffer; a server that knows less than this life has seen is mended first.

    `mend` makes buffer and ledger agree again: what the ledger holds is committed, what is gone is issued anew.
    """

    def __init__(self, buffer: ExperienceBuffer, *, mend: Callable[[], None]) -> None:
        self._buffer, self._mend = buffer, mend
        self._issued = 0
        """Sequences that the server has shown as issued."""

    def snapshot(self, *, committed: int) -> Snapshot:
        """`committed`: batches that this life knows to be acknowledged."""
        found = self._buffer.snapshot()
        if found.committed < committed or found.next_sequence < self._issued:
            why = f"{found.committed} of {committed} batches, {found.next_sequence} of {self._issued} issued groups"
            return self.mended(why)
        self._issued = found.next_sequence
        return found

    def pacing(self, work: Callable[[Snapshot], object], snapshot: Snapshot) -> Snapshot:
        """Do work that writes; if the server turns out to have lost something, mend it in place of that."""
        try:
            work(snapshot)
        except BufferLost as error:
            return self.mended(str(error))
        return snapshot

    def mended(self, why: str) -> Snapshot:
        log.error("server lost acknowledged writes", extra={"why": why})
        self._mend()
        found = self._buffer.snapshot()
        self._issued = found.next_sequence
        log.info("server mended from the ledger", extra={"committed": found.committed, "issued": found.next_sequence})
        return found
