"""Stamps what a worker has made of a lease."""

import time

from experience.buffer import Lease
from experience.schema import Production


def produced(lease: Lease, *, leased_at: float, started_at: float, finished_at: float) -> Production:
    """Called right after the end of the work; all three are monotonic seconds of this process, in their order."""
    return Production(
        worker=lease.worker,
        deliveries=lease.deliveries,
        queued_at=lease.put_at,
        leased_at=time.time() - (time.monotonic() - leased_at),
        waited_s=started_at - leased_at,
        worked_s=finished_at - started_at,
    )
