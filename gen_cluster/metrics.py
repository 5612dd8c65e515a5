"""What a generation worker exports to Prometheus. The weight store adds the seconds of each fetch."""

from prometheus_client import Counter, Gauge, Histogram

from experience.late_gauge import LateGauge
from experience.wall_clock import WallSeconds

PHASES = ("start", "generate", "load_weights", "exchange", "wait_weights", "wait_version", "wait_prompts", "other")
"""Of a worker's wall time; exchange = calls of the buffer, wait_weights = before the first version."""

FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
"""From a toy model's first step to a request that waited for room."""
PER_TOKEN_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2)
"""25 ms a token = 40 tokens/s."""
TOKEN_BUCKETS = (0, 16, 64, 256, 1024, 4096, 16384, 65536)
"""From a group that never began to the longest answers."""
STEP_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
"""From a toy model's decode step to a long prefill on a laptop."""
GROUP_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
"""From a few tokens to the longest deadline."""
UPDATE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
"""Hashing and loading of 1 MB to 100 GB."""

WALL = WallSeconds("headrace_gen_wall_seconds_total", "Wall time of the worker, by what it was doing", ["phase"])
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
SERVED_VERSION = LateGauge("headrace_gen_served_version", "Number of the version that is served")
FIRST_TOKEN_SECONDS = Histogram(
    "headrace_gen_time_to_first_token_seconds",
    "From adding a request to its first token, waiting for room included",
    buckets=FIRST_TOKEN_BUCKETS,
)
PER_TOKEN_SECONDS = Histogram(
    "headrace_gen_time_per_output_token_seconds",
    "Between the tokens of a request, mean over them",
    buckets=PER_TOKEN_BUCKETS,
)
KV_CACHE = LateGauge("headrace_gen_kv_cache_ratio", "Share of the engine's KV cache that is in use")
PREEMPTIONS = Counter("headrace_gen_preemptions_total", "Requests that gave up their KV cache to others and began anew")
FINISHED = Counter("headrace_gen_finished_total", "Requests that ended, by what ended them", ["reason"])
GIVEN_UP_TOKENS = Histogram(
    "headrace_gen_given_up_tokens", "Response tokens that a group had when it was given up", buckets=TOKEN_BUCKETS
)
MAX_SEQUENCES = LateGauge("headrace_gen_max_sequences", "Requests that the engine runs at once, at most")
