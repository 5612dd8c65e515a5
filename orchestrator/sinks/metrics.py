"""What the driver tells Prometheus of its sinks."""

from prometheus_client import Counter

DROPPED = Counter(
    "headrace_sink_dropped_total", "Lines that a sink did not take: its queue was full, or it raised", ["sink"]
)
