"""Prometheus metrics of the experience path, on the default registry of whichever process holds the buffer."""

from prometheus_client import Counter, Gauge, Histogram

from experience.buffer import Snapshot

LIVE = Gauge("headrace_experience_live_groups", "Groups issued and not settled")
COMMITTED = Gauge("headrace_experience_committed_batches", "Batches committed in this lineage")
DEPTH = Gauge("headrace_experience_depth_groups", "Entries standing in a stream", ["stream"])
REDELIVERIES = Counter("headrace_experience_redeliveries_total", "Leases of entries that were leased before", ["stage"])
REDELIVERY_SECONDS = Histogram("headrace_experience_redelivery_seconds", "From the last sign of an entry's holder to its next lease", ["stage"], buckets=(0.5, 1, 2.5, 5, 10, 20, 30, 31, 32, 35, 60, 120, 300))  # fmt: skip
LOST_LEASES = Counter("headrace_experience_lost_leases_total", "Outputs refused since another worker holds the entry", ["stage"])  # fmt: skip
QUARANTINED = Counter("headrace_experience_quarantined_total", "Entries moved to quarantine", ["stage"])
RETRIES = Counter("headrace_experience_retries_total", "Calls repeated after the server did not answer")


def observe(snapshot: Snapshot) -> None:
    """Show a snapshot in the gauges."""
    LIVE.set(snapshot.live)
    COMMITTED.set(snapshot.committed)
    for stream, depth in snapshot.depths.items():
        DEPTH.labels(stream).set(depth)
