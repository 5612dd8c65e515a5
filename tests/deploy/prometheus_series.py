"""Series of pretended runs in promtool's notation, and a run on which all is well.

Time starts at 0 and the verdict is taken at END_S. A run is {"WORKER metric{labels}": values}; `healthy` is the one that
cases differ from in one thing or two.
"""

import re
from collections.abc import Mapping

TICK_S = 30
END_S = 90 * 60
_TICKS = END_S // TICK_S + 1


def _piece(start: float, per_second: float, ticks: int) -> str:
    slope = _number(per_second * TICK_S)
    return f"{_number(start)}{'' if slope.startswith('-') else '+'}{slope}x{ticks - 1}" if ticks else ""


def _number(value: float) -> str:
    """Without an exponent, which the notation does not know."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def steady(value: float) -> str:
    return _piece(value, 0, _TICKS)


def rising(per_second: float, start: float = 0) -> str:
    return _piece(start, per_second, _TICKS)


def switched(before: float, after: float, *, minutes: float) -> str:
    """To another value, so long before the end."""
    return turned(0, 0, start=before, jump=after - before, minutes=minutes)


def turned(before: float, after: float, *, minutes: float, start: float = 0, jump: float = 0) -> str:
    """Another slope (per second) so long before the end."""
    late = int(minutes * 60) // TICK_S
    early = _TICKS - late
    middle = start + before * TICK_S * early
    return f"{_piece(start, before, early)} {_piece(middle + jump, after, late)}"


def lately(value: float, *, minutes: float, per_second: float = 0) -> str:
    """Absent before."""
    late = int(minutes * 60) // TICK_S
    return f"_x{_TICKS - late} {_piece(value, per_second, late)}"


def until(values: str, *, minutes: float) -> str:
    """Gone so long before the end, as of a target that left the list; values: of one piece."""
    late = int(minutes * 60) // TICK_S
    head, _, _ = values.rpartition("x")
    return f"{head}x{_TICKS - late - 1} stale _x{late - 1}"


def first(values: str) -> float:
    """What a series of one piece begins with."""
    return float(re.match(r"-?[\d.]+", values)[0])  # type: ignore[index]


def metric_of(key: str) -> str:
    """The metric's name."""
    return key.partition(" ")[2].partition("{")[0]


def exposed(run: str, key: str) -> str:
    """The series of a key, with the labels that its target has."""
    found = re.fullmatch(r"(\S+) (\w+)(?:{(.*)})?", key)
    assert found, key
    worker, name, own = found.groups()
    labels = {"run": run, "role": worker.partition("-")[0], "worker": worker, "instance": worker}
    labels |= dict(re.findall(r'(\w+)="([^"]*)"', own or ""))
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


STEPS_PER_S = 1 / 30
FIRST_STEP = 1000

healthy: Mapping[str, str] = {
    **{f"{worker} up": steady(1) for worker in ("driver", "gen-0", "score-0", "rank-0")},
    "driver headrace_run_step": rising(STEPS_PER_S, FIRST_STEP),
    "driver headrace_run_steps_planned": steady(5000),
    "driver headrace_run_start_timestamp_seconds": steady(END_S - 3700),
    "driver headrace_run_last_progress_timestamp_seconds": rising(1),
    "driver headrace_run_max_staleness_steps": steady(4),
    "driver headrace_run_stall_limit_seconds": steady(1800),
    'driver headrace_run_wall_seconds_total{phase="wait_events"}': rising(0.75),
    'driver headrace_run_wall_seconds_total{phase="supervise"}': rising(0.25),
    'gen-0 headrace_gen_wall_seconds_total{phase="generate"}': rising(0.6),
    'gen-0 headrace_gen_wall_seconds_total{phase="wait_prompts"}': rising(0.3),
    'gen-0 headrace_gen_wall_seconds_total{phase="wait_version"}': rising(0.1),
    "driver headrace_run_published_version": rising(STEPS_PER_S, FIRST_STEP),
    'driver headrace_run_waited_for_seconds_total{stage="start"}': steady(40),
    'driver headrace_run_waited_for_seconds_total{stage="generation"}': rising(0.02),
    'driver headrace_run_waited_for_seconds_total{stage="scoring"}': rising(0.02),
    'driver headrace_run_waited_for_seconds_total{stage="publication"}': rising(0.01),
    'driver headrace_run_waited_for_seconds_total{stage="training"}': rising(0.95),
    'driver headrace_run_restarts{kind="trainer"}': steady(0),
    'driver headrace_run_restarts{kind="worker"}': steady(1),
    'driver headrace_run_disk_free_bytes{path="run"}': rising(-1e6, 100e9),
    'driver headrace_run_disk_free_bytes{path="store"}': steady(100e9),
    'driver headrace_experience_depth_groups{stream="prompts"}': steady(10),
    'driver headrace_experience_depth_groups{stream="completions"}': steady(5),
    'driver headrace_experience_depth_groups{stream="experience"}': steady(20),
    'driver headrace_experience_depth_groups{stream="quarantine"}': steady(0),
    "driver headrace_experience_capacity_groups": steady(80),
    "driver headrace_redis_up": steady(1),
    "driver headrace_redis_memory_bytes": steady(100e6),
    "driver headrace_redis_memory_limit_bytes": steady(1e9),
    "driver headrace_redis_aof_enabled": steady(1),
    "driver headrace_redis_aof_write_ok": steady(1),
    "driver headrace_eval_without_rise_steps": steady(40),
    "driver headrace_eval_failures_total": steady(0),
    "driver headrace_weights_corrupt_versions_total": steady(0),
    "rank-0 headrace_train_step": rising(STEPS_PER_S, FIRST_STEP),
    "rank-0 headrace_train_kl_per_response_nats": steady(6),
    "rank-0 headrace_train_response_length_tokens": steady(200),
    "rank-0 headrace_train_reward_mean": rising(1e-6, 0.5),
    "rank-0 headrace_train_reward_std": steady(1),
    "rank-0 headrace_train_grad_clipped_ratio": steady(0.05),
    "rank-0 headrace_train_length_reward_correlation": steady(0.1),
    'rank-0 headrace_train_reward_measure{measure="diversity.distinct_4"}': steady(0.8),
    'rank-0 headrace_train_reward_measure{measure="diversity.unique"}': steady(0.9),
    'rank-0 headrace_train_reward_measure{measure="diversity.equal"}': steady(0.1),
    "rank-0 headrace_train_logprob_gap_nats": steady(0.01),
    "rank-0 headrace_train_logprob_gap_sequences": steady(64),
    "rank-0 headrace_train_logprob_gap_staleness_steps": steady(1),
    "rank-0 headrace_train_correction_effective_ratio": steady(0.9),
    "rank-0 headrace_train_staleness_mean_steps": steady(1.5),
    "rank-0 headrace_train_checkpoint_seconds_count": rising(1 / 600),
    "rank-0 headrace_train_publish_stall_seconds_sum": rising(0.01),
    "rank-0 headrace_train_checkpoint_stall_seconds_sum": rising(0.01),
    'rank-0 headrace_store_retried_requests_total{action="put"}': steady(3),
    "gen-0 headrace_gen_tokens_total": rising(2000),
    "gen-0 headrace_gen_running": steady(50),
    "gen-0 headrace_gen_served_version": rising(STEPS_PER_S, FIRST_STEP - 1),
    'gen-0 headrace_gen_groups_total{result="done"}': rising(1),
    'gen-0 headrace_gen_groups_total{result="overdue"}': rising(0.01),
    "gen-0 headrace_gen_refused_versions_total": steady(0),
    **{
        f'gen-0 headrace_gen_time_to_first_token_seconds_bucket{{le="{bound}"}}': rising(share)
        for bound, share in (("0.5", 0.95), ("1", 1), ("2", 1), ("+Inf", 1))
    },
    "score-0 headrace_score_groups_total": rising(1),
    'score-0 headrace_score_failures_total{component="total"}': steady(2),
    "score-0 headrace_score_kl_target_below_noise": steady(0),
}

gpu: Mapping[str, str] = {
    'gen-0 headrace_gpu_memory_bytes{gpu="0"}': steady(80e9),
    'gen-0 headrace_gpu_memory_used_bytes{gpu="0"}': steady(72e9),
}
