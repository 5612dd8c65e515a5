"""The driver's own metrics; every worker exports its cluster's on a port of its own."""

from prometheus_client import Counter, Gauge

STEP = Gauge("headrace_run_step", "Steps trained")
PUBLISHED = Gauge("headrace_run_published_version", "Number of the newest committed version of the weights")
ISSUED = Counter(
    "headrace_run_issued_groups_total", "Groups issued, by whether the prompt was issued before", ["attempt"]
)
PASSED_OVER = Counter("headrace_run_passed_over_prompts_total", "Prompts that could not be asked, and were dropped")
RESTARTS = Gauge("headrace_run_restarts", "Restarts in this life, by role", ["role"])
EPOCH = Gauge("headrace_run_epoch", "Fencing epoch of this life of the orchestrator")
