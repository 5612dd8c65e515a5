"""Prometheus metrics of the experience path, on the default registry of whichever process holds the buffer."""

from prometheus_client import Counter, Gauge

from experience.buffer import Snapshot

LIVE = Gauge("headrace_experience_live_groups", "Groups issued and not settled")
COMMITTED = Gauge("headrace_experience_committed_batches", "Batches committed in this lineage")
DEPTH = Gauge("headrace_experience_depth_groups", "Entries standing in a stream", ["stream"])
REDELIVERIES = Counter("headrace_experience_redeliveries_total", "Leases of entries that were leased before", ["stage"])
LOST_LEASES = Counter("headrace_experience_lost_leases_total", "Outputs refused since another worker holds the entry", ["stage"])  # fmt: skip
QUARANTINED = Counter("headrace_experience_quarantined_total", "Entries moved to quarantine", ["stage"])
RETRIES = Counter("headrace_experience_retries_total", "Calls repeated after the server did not answer")


def observe(snapshot: Snapshot) -> None:
    """Show a snapshot in the gauges."""
    LIVE.set(snapshot.live)
    COMMITTED.set(snapshot.committed)
    for stream, depth in snapshot.depths.items():
        DEPTH.labels(stream).set(depth)
