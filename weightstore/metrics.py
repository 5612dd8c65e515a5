"""What the weight store exports to Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
"""From a toy model on a laptop to hundreds of gigabytes over a network."""

PUBLISH_SECONDS = Histogram("headrace_weights_publish_seconds", "Writing and hashing one shard", buckets=SECONDS)
PUBLISHED_BYTES = Counter("headrace_weights_published_bytes_total", "Bytes of shards written")
COMMIT_SECONDS = Histogram(
    "headrace_weights_commit_seconds", "From asking for the commit of a version to its manifest", buckets=SECONDS
)
NEWEST_VERSION = Gauge("headrace_weights_newest_version", "Number of the newest recorded version")
FETCH_SECONDS = Histogram("headrace_weights_fetch_seconds", "Reading and verifying one version", buckets=SECONDS)
FETCHED_BYTES = Counter("headrace_weights_fetched_bytes_total", "Bytes of blobs read and verified")
CORRUPT_VERSIONS = Counter("headrace_weights_corrupt_versions_total", "Fetches refused for a wrong size or hash")
RETRIED_REQUESTS = Counter(
    "headrace_store_retried_requests_total", "Requests to an object store that failed and were sent again", ["action"]
)
DELETED_VERSIONS = Counter("headrace_weights_deleted_versions_total", "Versions that retention deleted")
