"""Prometheus metrics of the experience path, on the default registry of whichever process holds the buffer."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from experience.buffer import Ages, Snapshot
from experience.late_gauge import LateGauge
from experience.schema import Settlement

LIVE = LateGauge("headrace_experience_live_groups", "Groups issued and not settled")
COMMITTED = LateGauge("headrace_experience_committed_batches", "Batches committed in this lineage")
DEPTH = Gauge("headrace_experience_depth_groups", "Entries standing in a stream", ["stream"])
REDELIVERIES = Counter("headrace_experience_redeliveries_total", "Leases of entries that were leased before", ["stage"])
REDELIVERY_SECONDS = Histogram("headrace_experience_redelivery_seconds", "From the last sign of an entry's holder to its next lease", ["stage"], buckets=(0.5, 1, 2.5, 5, 10, 20, 30, 31, 32, 35, 60, 120, 300))  # fmt: skip
LOST_LEASES = Counter("headrace_experience_lost_leases_total", "Outputs refused since another worker holds the entry", ["stage"])  # fmt: skip
QUARANTINED = Counter("headrace_experience_quarantined_total", "Entries moved to quarantine", ["stage"])
OLDEST = Gauge("headrace_experience_oldest_seconds", "Age of the oldest entry of a stream; 0 = it is empty", ["stream"])
LEASES = Gauge("headrace_experience_leases", "Entries that workers hold", ["stage"])
OLDEST_LEASE = Gauge("headrace_experience_oldest_lease_seconds", "Longest time since a held lease was renewed", ["stage"])  # fmt: skip
CAPACITY = LateGauge("headrace_experience_capacity_groups", "Groups in flight, at most")
SETTLED = Counter("headrace_experience_settled_groups_total", "Groups that batches have recorded the end of", ["outcome", "reason"])  # fmt: skip
RETRIES = Counter("headrace_experience_retries_total", "Calls repeated after the server did not answer")

REASONS = {"trained": "batch", "dropped": "late", "filtered": "equal_rewards", "lost": "server", "abandoned": "lineage"}
"""By outcome, where there is one; a settlement's own text is for people and endless."""
QUARANTINE_REASONS = {"prompts": "generation", "completions": "scoring"}
"""By the stage whose workers failed on the group, with which the text begins."""


def observe(snapshot: Snapshot) -> None:
    """Show a snapshot in the gauges."""
    LIVE.set(snapshot.live)
    COMMITTED.set(snapshot.committed)
    for stream, depth in snapshot.depths.items():
        DEPTH.labels(stream).set(depth)


def observe_ages(ages: Ages) -> None:
    """Show them in the gauges."""
    for stream, age_s in ages.oldest_s.items():
        OLDEST.labels(stream).set(age_s)
    for stage, count in ages.leases.items():
        LEASES.labels(stage).set(count)
    for stage, age_s in ages.oldest_lease_s.items():
        OLDEST_LEASE.labels(stage).set(age_s)


def observe_settled(settlements: Iterable[Settlement]) -> None:
    """Count those that a batch has recorded."""
    for settlement in settlements:
        SETTLED.labels(settlement.outcome, reason_of(settlement)).inc()


def reason_of(settlement: Settlement) -> str:
    """One of a closed set."""
    if settlement.outcome == "quarantined":
        return QUARANTINE_REASONS.get(settlement.reason.partition(":")[0], "other")
    return REASONS[settlement.outcome]
