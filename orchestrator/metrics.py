"""The driver's own metrics; every worker exports its cluster's on a port of its own."""

from prometheus_client import Counter, Gauge

from experience.late_gauge import LateGauge
from experience.wall_clock import WallSeconds

PHASES = ("start", "supervise", "admit", "evaluate", "report", "wait_events", "other")
"""Of the driver's wall time; start = before its loop."""

WALL = WallSeconds("headrace_run_wall_seconds_total", "Wall time of the driver, by what it was doing", ["phase"])
WAITED_FOR = WallSeconds("headrace_run_waited_for_seconds_total", "Wall time by whom the loop waited for", ["stage"])
STARTED = Gauge("headrace_run_start_timestamp_seconds", "Unix time at which this life of the run began")
LAST_PROGRESS = LateGauge(
    "headrace_run_last_progress_timestamp_seconds", "Unix time at which a batch was committed or a step trained last"
)
STEP = Gauge("headrace_run_step", "Steps trained")
STEPS_PLANNED = Gauge("headrace_run_steps_planned", "Steps that the run is to train")
MAX_STALENESS = Gauge("headrace_run_max_staleness_steps", "Oldest that a trained token may be")
STALL_LIMIT = Gauge("headrace_run_stall_limit_seconds", "Without progress for so long, the watchdog ends the run")
PUBLISHED = LateGauge("headrace_run_published_version", "Number of the newest committed version of the weights")
ISSUED = Counter(
    "headrace_run_issued_groups_total", "Groups issued, by whether the prompt was issued before", ["attempt"]
)
PASSED_OVER = Counter("headrace_run_passed_over_prompts_total", "Prompts that could not be asked, and were dropped")
RESTARTS = Gauge("headrace_run_restarts", "Restarts in this life, of all ranks together and of other workers", ["kind"])
EPOCH = Gauge("headrace_run_epoch", "Fencing epoch of this life of the orchestrator")
TRAINER_EPOCH = LateGauge("headrace_run_trainer_epoch", "Fencing epoch of the ranks in hand")
DISK_FREE = Gauge(
    "headrace_run_disk_free_bytes", "Free to this user on the disk of the run, store or scratch", ["path"]
)
DISK_SIZE = Gauge("headrace_run_disk_bytes", "Size of the disk of the run, store or scratch", ["path"])

REDIS_UP = LateGauge("headrace_redis_up", "1 while the server of groups tells of itself, else 0")
REDIS_MEMORY = LateGauge("headrace_redis_memory_bytes", "Memory that the server uses for data")
REDIS_MEMORY_LIMIT = LateGauge("headrace_redis_memory_limit_bytes", "Memory that the server may use; 0 = no limit")
REDIS_AOF_ENABLED = LateGauge("headrace_redis_aof_enabled", "1 where the server keeps an append-only file")
REDIS_AOF_WRITE_OK = LateGauge("headrace_redis_aof_write_ok", "1 while the last write to that file succeeded")
REDIS_AOF_DELAYED = LateGauge(
    "headrace_redis_aof_delayed_fsyncs", "Syncs of that file that were put off, since its start"
)
REDIS_AOF_BYTES = LateGauge("headrace_redis_aof_bytes", "Size of that file")
REDIS_CLIENTS = LateGauge("headrace_redis_clients", "Connections to the server")
