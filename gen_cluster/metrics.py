"""What a generation worker exports to Prometheus. The weight store adds the seconds of each fetch."""

from prometheus_client import Counter, Gauge, Histogram

STEP_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
"""From a toy model's decode step to a long prefill on a laptop."""
GROUP_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
"""From a few tokens to the longest deadline."""
UPDATE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
"""Hashing and loading of 1 MB to 100 GB."""

RUNNING = Gauge("headrace_gen_running", "Requests in the engine as it goes into a step")
WAITING = Gauge("headrace_gen_waiting", "Leased groups that have not started")
TOKENS = Counter("headrace_gen_tokens_total", "Response tokens of finished requests")
GROUPS = Counter("headrace_gen_groups_total", "Groups that a worker is done with, by result", ["result"])
STEP_SECONDS = Histogram("headrace_gen_step_seconds", "One engine step", buckets=STEP_BUCKETS)
WORK_CPU_SECONDS = Counter(
    "headrace_gen_work_cpu_seconds_total", "CPU seconds of the process, all its threads, inside engine steps"
)
GROUP_SECONDS = Histogram(
    "headrace_gen_group_seconds", "From starting a group to its last token", buckets=GROUP_BUCKETS
)
UPDATE_SECONDS = Histogram(
    "headrace_gen_update_seconds", "Generation paused while new weights are checked and loaded", buckets=UPDATE_BUCKETS
)
REFUSED_VERSIONS = Counter("headrace_gen_refused_versions_total", "Versions that were corrupt or did not fit the model")
SERVED_VERSION = Gauge("headrace_gen_served_version", "Number of the version that is served")
