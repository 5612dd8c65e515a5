"""What the driver tells Prometheus of the run's own evaluations."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge

from experience.late_gauge import LateGauge

STEP = LateGauge("headrace_eval_step", "Step of the version that was evaluated last.")
BEST_STEP = LateGauge("headrace_eval_best_step", "Step of the best version so far.")
WITHOUT_RISE = LateGauge("headrace_eval_without_rise_steps", "Steps from the best version to the last one evaluated.")
WIN_RATE = LateGauge(
    "headrace_eval_win_ratio", "Win rate of the last version evaluated against the baseline, ties half."
)
WIN_RATE_LOW = LateGauge("headrace_eval_win_low_ratio", "Lower end of its 95 % interval.")
WIN_RATE_HIGH = LateGauge("headrace_eval_win_high_ratio", "Upper end of its 95 % interval.")
REWARD = LateGauge("headrace_eval_reward", "Total reward on the held-out prompts, mean.")
COMPONENT = Gauge("headrace_eval_reward_component", "The same by component, raw.", ["component"])
KL = LateGauge("headrace_eval_kl_per_response_nats", "KL to the reference, summed over a response, mean.")
LENGTH = LateGauge("headrace_eval_response_length_tokens", "Response length, mean.")
DISTINCT = Gauge("headrace_eval_distinct_ratio", "Distinct n-grams as a share of all, by n.", ["n"])
SECONDS = LateGauge("headrace_eval_seconds", "Wall time of the last evaluation, from asking to the answer.")
FAILURES = Counter("headrace_eval_failures_total", "Evaluations that came to nothing, and deaths of the evaluator.")

_PLAIN = {
    "step": STEP,
    "win_rate": WIN_RATE,
    "win_rate_low": WIN_RATE_LOW,
    "win_rate_high": WIN_RATE_HIGH,
    "reward": REWARD,
    "kl": KL,
    "length": LENGTH,
    "seconds": SECONDS,
}


def observe(line: Mapping[str, Any]) -> None:
    """Show a line of evaluations.jsonl; what it lacks keeps its last value."""
    for key, gauge in _PLAIN.items():
        if line.get(key) is not None:
            gauge.set(line[key])
    for key, value in line.items():
        kind, _, name = key.partition(".")
        if kind == "reward" and name:
            COMPONENT.labels(name).set(value)
    for n in range(1, 5):
        if line.get(f"distinct_{n}") is not None:
            DISTINCT.labels(str(n)).set(line[f"distinct_{n}"])
