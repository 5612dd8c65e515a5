"""For each alert a run on which it fires and runs on which it does not: just past the threshold, just short of it, not long
enough, and where the figure means something else. Each differs from the healthy run by the series that are named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_series import (
    END_S,
    FIRST_STEP,
    STEPS_PER_S,
    first,
    gpu,
    healthy,
    lately,
    rising,
    steady,
    switched,
    turned,
    until,
)

Changes = Mapping[str, str | None]
"""Series -> values; None = there is no such series."""


@dataclass(frozen=True, kw_only=True)
class Case:
    fires: Mapping[str, Changes]
    """Name -> run."""
    quiet: Mapping[str, Changes]
    base: Changes = field(default_factory=dict)
    """What all of them differ by."""


def level(key: str, *, bad: float, good: float, for_minutes: float = 0, base: Changes | None = None) -> Case:
    """Of a gauge: past the threshold all the time, short of it, and past it for half as long as it takes to ring."""
    usual = first(healthy[key]) if key in healthy else good
    brief = {"brief": {key: switched(usual, bad, minutes=for_minutes / 2)}} if for_minutes else {}
    return Case(fires={"past": {key: steady(bad)}}, quiet={"short": {key: steady(good)}} | brief, base=base or {})


def waited(stage: str, share: float, *, minutes: float = 90) -> Changes:
    """The loop waits for a stage, and else for training, since so long."""
    late = {stage: share, "training": 1 - share}
    usual = {"generation": 0.02, "scoring": 0.02, "publication": 0.01, "training": 0.95}
    return {
        f'driver headrace_run_waited_for_seconds_total{{stage="{name}"}}': turned(
            usual[name], late.get(name, 0), minutes=minutes
        )
        for name in usual
    }


def first_token(within_1s: float) -> Changes:
    """Share of requests that get their first token within a second, all of them within two."""
    shares = {"0.5": 0.9, "1": within_1s, "2": 1, "+Inf": 1}
    return {f'{FIRST_TOKEN}{{le="{bound}"}}': rising(share) for bound, share in shares.items()}


FIRST_TOKEN = "gen-0 headrace_gen_time_to_first_token_seconds_bucket"
STEP, KL = "rank-0 headrace_train_step", "rank-0 headrace_train_kl_per_response_nats"
LENGTH, REWARD = "rank-0 headrace_train_response_length_tokens", "rank-0 headrace_train_reward_mean"
CORRELATION = "rank-0 headrace_train_length_reward_correlation"
WITHOUT_RISE = "driver headrace_eval_without_rise_steps"
MEASURE = 'rank-0 headrace_train_reward_measure{{measure="diversity.{}"}}'
GAP = "rank-0 headrace_train_logprob_gap_nats"
EFFECTIVE, STALENESS = (
    "rank-0 headrace_train_correction_effective_ratio",
    "rank-0 headrace_train_staleness_mean_steps",
)
MAX_STALENESS = "driver headrace_run_max_staleness_steps"
PROGRESS = "driver headrace_run_last_progress_timestamp_seconds"
STALL_LIMIT = "driver headrace_run_stall_limit_seconds"
STARTED, RUN_STEP = "driver headrace_run_start_timestamp_seconds", "driver headrace_run_step"
DEPTH = 'driver headrace_experience_depth_groups{{stream="{}"}}'
SERVED, PUBLISHED = "gen-0 headrace_gen_served_version", "driver headrace_run_published_version"
CHECKPOINTS = "rank-0 headrace_train_checkpoint_seconds_count"
PUBLISH_STALL = "rank-0 headrace_train_publish_stall_seconds_sum"
CHECKPOINT_STALL = "rank-0 headrace_train_checkpoint_stall_seconds_sum"
OVERDUE = 'gen-0 headrace_gen_groups_total{result="overdue"}'
FAILURES = 'score-0 headrace_score_failures_total{component="total"}'
RESTARTS = 'driver headrace_run_restarts{kind="worker"}'
FREE = 'driver headrace_run_disk_free_bytes{path="run"}'
RETRIED = 'rank-0 headrace_store_retried_requests_total{action="put"}'
CORRUPT, REFUSED = "driver headrace_weights_corrupt_versions_total", "gen-0 headrace_gen_refused_versions_total"
TOKENS, RUNNING = "gen-0 headrace_gen_tokens_total", "gen-0 headrace_gen_running"
LIMIT = "driver headrace_redis_memory_limit_bytes"
EVALUATION_FAILURES = "driver headrace_eval_failures_total"

NOT_TRAINED: Changes = {key: None for key in healthy if key.startswith("rank-0 headrace")} | {PROGRESS: None}
"""The ranks have not come to their first step."""

SLOW = rising(0.024, 1000)
"""86 steps in the last hour, 130 in all: what is judged by steps looks further back."""
FEW_STEPS = turned(0.005, 0.0222, start=1000, minutes=60)
"""80 in the last hour, 89 in all: too few to judge."""

FIRST_CUTS = "_x104 400000000000-10000000000x9 300000000000+0x66"
"""38 minutes old: 100 of 400 GB are gone in its first five, and then what comes replaces what goes."""

CASES: Mapping[str, Case] = {
    # Two steps a minute: 52 steps in 26 minutes.
    "HeadraceKLHigh": Case(
        fires={"52 steps": {KL: switched(6, 15.1, minutes=26)}},
        quiet={
            "48 steps": {KL: switched(6, 15.1, minutes=24)},
            "at 15": {KL: steady(15)},
            "not all of them": {KL: "16+0x139 14 16+0x39"},
            "60 steps, then better": {KL: "6+0x99 16+0x60 14+0x19"},
        },
    ),
    # Nine steps a minute, and eleven. At the end the jump is a minute old, or five: it rings for ten more.
    "HeadraceKLJump": Case(
        base={STEP: rising(0.15, 1000)},
        fires={"by 5.1": {KL: switched(6, 11.1, minutes=1)}, "lately": {KL: switched(6, 11.1, minutes=5)}},
        quiet={
            "by 4.9": {KL: switched(6, 10.9, minutes=1)},
            "many steps": {KL: switched(6, 11.1, minutes=1), STEP: rising(0.1834, 1000)},
            "long ago": {KL: switched(6, 11.1, minutes=15)},
            "downwards": {KL: switched(11.1, 6, minutes=1)},
        },
    ),
    "HeadraceKLTargetBelowNoise": level("score-0 headrace_score_kl_target_below_noise", bad=1, good=0, for_minutes=5),
    # 100 steps take 3,000 s: 0.0065 tokens/s are 19.5 in 100 steps, of 173 in the mean; 0.005 are 15 of 168.
    "HeadraceLengthGrowsWithReward": Case(
        base={LENGTH: rising(0.0065, 150), REWARD: rising(1e-5), CORRELATION: steady(0.21)},
        fires={"by 11 %": {}, "slow": {STEP: SLOW}},
        quiet={
            "by 9 %": {LENGTH: rising(0.005, 150)},
            "not rewarded": {CORRELATION: steady(0.19)},
            "reward falls": {REWARD: rising(-1e-5, 0.5)},
            "few steps": {STEP: FEW_STEPS},
            "flat for an hour": {LENGTH: turned(0.05, 0, start=150, minutes=61)},
            "brief": {CORRELATION: lately(0.9, minutes=10)},
        },
    ),
    # 200 steps take 6,000 s: 1.8e-5 a second are 0.108 standard deviations.
    "HeadraceRewardUpWinRateFlat": Case(
        base={WITHOUT_RISE: steady(200), REWARD: rising(1.8e-5)},
        fires={"200 steps": {}, "slow": {STEP: SLOW}},
        quiet={
            "199 steps": {WITHOUT_RISE: steady(199)},
            "few steps": {STEP: FEW_STEPS},
            "flat for an hour": {REWARD: turned(2e-4, 0, minutes=61)},
            "reward flat": {REWARD: rising(1.5e-5)},
            "brief": {WITHOUT_RISE: switched(0, 200, minutes=10)},
        },
    ),
    "HeadraceDiversityLow": level(MEASURE.format("distinct_4"), bad=0.59, good=0.61, for_minutes=15),
    "HeadraceDuplicateAnswers": level(MEASURE.format("unique"), bad=0.49, good=0.51, for_minutes=15),
    "HeadraceGroupsAlike": level(MEASURE.format("equal"), bad=0.91, good=0.89, for_minutes=15),
    "HeadraceLogprobGapHigh": Case(
        base={GAP: steady(0.11)},
        fires={"0.11": {}},
        quiet={
            "0.09": {GAP: steady(0.09)},
            "older samples": {"rank-0 headrace_train_logprob_gap_staleness_steps": steady(2)},
            "not measured": {"rank-0 headrace_train_logprob_gap_sequences": steady(0)},
            "brief": {GAP: switched(0.01, 0.2, minutes=5)},
        },
    ),
    "HeadraceStalenessHurts": Case(
        base={EFFECTIVE: steady(0.49), STALENESS: steady(3.7)},
        fires={"at the bound": {}},
        quiet={
            "harmless": {EFFECTIVE: steady(0.51)},
            "younger": {STALENESS: steady(3.5)},
            "synchronous": {STALENESS: steady(0), MAX_STALENESS: steady(0)},
            "brief": {EFFECTIVE: switched(0.9, 0.4, minutes=10)},
        },
    ),
    "HeadraceGradientClipping": Case(
        fires={"21 %": {"rank-0 headrace_train_grad_clipped_ratio": steady(0.21)}},
        quiet={
            "19 %": {"rank-0 headrace_train_grad_clipped_ratio": steady(0.19)},
            "brief": {"rank-0 headrace_train_grad_clipped_ratio": lately(1, minutes=10)},
        },
    ),
    "HeadraceEvaluationFails": Case(
        fires={"one": {EVALUATION_FAILURES: switched(0, 1, minutes=30)}},
        quiet={"long ago": {EVALUATION_FAILURES: switched(0, 1, minutes=70)}},
    ),
    "HeadraceNoProgress": Case(
        fires={"16 minutes": {PROGRESS: turned(1, 0, minutes=16)}},
        quiet={
            "14 minutes": {PROGRESS: turned(1, 0, minutes=14)},
            "a run of long steps": {PROGRESS: turned(1, 0, minutes=16), STALL_LIMIT: steady(7200)},
            "last step trained": {PROGRESS: turned(1, 0, minutes=30), RUN_STEP: steady(5000)},
            "not begun": {**NOT_TRAINED, STARTED: steady(END_S - 1700)},
        },
    ),
    "HeadraceStartTakesLong": Case(
        base=NOT_TRAINED,
        fires={"32 minutes": {STARTED: steady(END_S - 1900)}},
        quiet={
            "28 minutes": {STARTED: steady(END_S - 1700)},
            "began": {STARTED: steady(END_S - 1900), PROGRESS: lately(END_S - 60, minutes=1)},
        },
    ),
    "HeadraceTrainerStarved": Case(
        fires={"of answers": waited("generation", 0.52), "of scores": waited("scoring", 0.52)},
        quiet={
            "less": waited("generation", 0.48),
            "much less": waited("generation", 0.12),
            "brief": waited("generation", 1, minutes=12),
        },
    ),
    "HeadraceQueueFull": Case(
        fires={name: {DEPTH.format(name): steady(73)} for name in ("completions", "experience")},
        quiet={
            "less": {DEPTH.format("experience"): steady(71)},
            "of prompts": {DEPTH.format("prompts"): steady(80)},
            "brief": {DEPTH.format("completions"): switched(5, 80, minutes=15)},
        },
    ),
    "HeadraceEngineServesOldVersion": Case(
        fires={
            "5 behind": {SERVED: rising(STEPS_PER_S, FIRST_STEP - 5)},
            "2 behind": {SERVED: rising(STEPS_PER_S, FIRST_STEP - 2), MAX_STALENESS: steady(0)},
        },
        quiet={
            "4 behind": {SERVED: rising(STEPS_PER_S, FIRST_STEP - 4)},
            "1 behind": {SERVED: rising(STEPS_PER_S, FIRST_STEP - 1), MAX_STALENESS: steady(0)},
            "none yet": {SERVED: None},
            "brief": {SERVED: turned(STEPS_PER_S, 0, start=FIRST_STEP, minutes=6)},
        },
    ),
    "HeadracePublicationSlow": Case(
        fires={"27 %": waited("publication", 0.27)},
        quiet={"23 %": waited("publication", 0.23), "brief": waited("publication", 1, minutes=12)},
    ),
    "HeadraceNoCheckpoint": Case(
        base={CHECKPOINTS: steady(7)},
        fires={"none": {}},
        quiet={
            "one": {CHECKPOINTS: switched(7, 8, minutes=50)},
            "no step": {STEP: steady(1000)},
            "started lately": {STARTED: steady(END_S - 3500)},
        },
    ),
    "HeadraceCopiesStall": Case(
        fires={"11 %": {PUBLISH_STALL: rising(0.05), CHECKPOINT_STALL: rising(0.06)}},
        quiet={
            "9 %": {PUBLISH_STALL: rising(0.05), CHECKPOINT_STALL: rising(0.04)},
            "brief": {PUBLISH_STALL: turned(0.01, 1, minutes=10)},
        },
    ),
    "HeadraceTimeouts": Case(
        fires={"5.1 %": {OVERDUE: rising(0.054)}},
        quiet={"4.3 %": {OVERDUE: rising(0.045)}, "brief": {OVERDUE: turned(0.01, 1, minutes=3)}},
    ),
    "HeadraceScoringFails": Case(
        fires={"5.1 %": {FAILURES: rising(0.054)}},
        quiet={"4.3 %": {FAILURES: rising(0.045)}, "brief": {FAILURES: turned(0, 1, minutes=3)}},
    ),
    "HeadraceQuarantine": Case(
        fires={"one": {DEPTH.format("quarantine"): switched(0, 1, minutes=10)}},
        quiet={
            "long ago": {DEPTH.format("quarantine"): switched(0, 1, minutes=20)},
            "of an earlier life": {DEPTH.format("quarantine"): steady(3)},
            "cleared away": {DEPTH.format("quarantine"): switched(5, 3, minutes=10)},
        },
    ),
    "HeadraceDriverDown": Case(
        fires={"3 minutes": {"driver up": switched(1, 0, minutes=3)}},
        quiet={
            "brief": {"driver up": switched(1, 0, minutes=1)},
            "over HTTP": {"driver up": None, 'driver up{discovery="http"}': switched(1, 0, minutes=10)},
        },
    ),
    "HeadraceWorkerDown": Case(
        fires={
            f"{worker} for 3 minutes": {f"{worker} up": switched(1, 0, minutes=3)}
            for worker in ("gen-0", "score-0", "rank-0", "eval-0")
        },
        quiet={
            "brief": {"gen-0 up": switched(1, 0, minutes=1)},
            "driver over HTTP down too": {
                "gen-0 up": switched(1, 0, minutes=10),
                "driver up": None,
                'driver up{discovery="http"}': switched(1, 0, minutes=10),
            },
        },
    ),
    "HeadraceRestarts": Case(
        fires={"three": {RESTARTS: switched(1, 4, minutes=20)}},
        quiet={"two": {RESTARTS: switched(1, 3, minutes=20)}, "long ago": {RESTARTS: switched(1, 5, minutes=40)}},
    ),
    "HeadraceRedisDown": level("driver headrace_redis_up", bad=0, good=1, for_minutes=1),
    "HeadraceRedisMemory": Case(
        fires={"86 %": {"driver headrace_redis_memory_bytes": steady(860e6)}},
        quiet={
            "84 %": {"driver headrace_redis_memory_bytes": steady(840e6)},
            "no limit": {"driver headrace_redis_memory_bytes": steady(10e9), LIMIT: steady(0)},
            "brief": {"driver headrace_redis_memory_bytes": switched(100e6, 990e6, minutes=3)},
        },
    ),
    "HeadraceRedisAofFails": Case(
        fires={"failed": {"driver headrace_redis_aof_write_ok": steady(0)}},
        quiet={
            "none kept": {
                "driver headrace_redis_aof_write_ok": steady(0),
                "driver headrace_redis_aof_enabled": steady(0),
            },
            "brief": {"driver headrace_redis_aof_write_ok": switched(1, 0, minutes=0.5)},
        },
    ),
    "HeadraceDiskLow": level(FREE, bad=1.0e9, good=1.2e9, for_minutes=1),
    # 100 GB in 4 h and 90 min: 5.05 MB/s.
    "HeadraceDiskFills": Case(
        fires={"6 MB/s": {FREE: rising(-6e6, 100e9)}},
        quiet={
            "4.9 MB/s": {FREE: rising(-4.9e6, 100e9)},
            "brief": {FREE: turned(0, -60e6, minutes=15, start=100e9)},
            "first cuts": {FREE: FIRST_CUTS},
        },
    ),
    "HeadraceStoreRetries": Case(
        fires={"22 in 10 minutes": {RETRIED: rising(0.036)}},
        quiet={"18 in 10 minutes": {RETRIED: rising(0.030)}, "brief": {RETRIED: turned(0, 1, minutes=3)}},
    ),
    "HeadraceCorruptVersions": Case(
        fires={
            "corrupt": {CORRUPT: switched(0, 1, minutes=30)},
            "of another model": {REFUSED: switched(0, 1, minutes=30)},
        },
        quiet={"long ago": {CORRUPT: switched(0, 1, minutes=70), REFUSED: switched(0, 1, minutes=70)}},
    ),
    # The 99th percentile: 1 + 0.002 / 0.012 = 1.17 s, and 0.5 + 0.5 * 0.090 / 0.091 = 0.995 s.
    "HeadraceFirstTokenSlow": Case(
        base=gpu,
        fires={"1.17 s": first_token(0.988)},
        quiet={
            "0.995 s": first_token(0.991),
            "no GPU": {**first_token(0.9), **dict.fromkeys(gpu)},
            "brief": {
                f'{FIRST_TOKEN}{{le="0.5"}}': turned(0.95, 0, minutes=5),
                f'{FIRST_TOKEN}{{le="1"}}': turned(1, 0, minutes=5),
            },
        },
    ),
    "HeadraceTokensSlow": Case(
        base=gpu,
        fires={"39 a second": {TOKENS: rising(39)}},
        quiet={
            "41 a second": {TOKENS: rising(41)},
            "idle": {TOKENS: rising(10), RUNNING: steady(0)},
            "no GPU": {TOKENS: rising(10), **dict.fromkeys(gpu)},
            "brief": {TOKENS: turned(2000, 0, minutes=20)},
        },
    ),
    "HeadraceGpuMemory": level(
        'gen-0 headrace_gpu_memory_used_bytes{gpu="0"}', bad=74.5e9, good=72.5e9, for_minutes=10, base=gpu
    ),
}


def _tiny() -> Changes:
    """A demonstration of three minutes on a laptop, with figures that would alarm anybody if they stayed."""
    alive = {key: lately(first(values), minutes=3) for key, values in healthy.items()}
    return alive | {
        STARTED: lately(END_S - 180, minutes=3),
        PROGRESS: lately(END_S - 180, minutes=3, per_second=1),
        RUN_STEP: lately(0, minutes=3, per_second=0.8),
        STEP: lately(1, minutes=3, per_second=0.8),
        KL: lately(0, minutes=3, per_second=0.1),
        REWARD: lately(0, minutes=3, per_second=0.01),
        LENGTH: lately(5, minutes=3, per_second=0.05),
        CORRELATION: lately(0.9, minutes=3),
        MEASURE.format("distinct_4"): lately(0.1, minutes=3),
        MEASURE.format("unique"): lately(0.1, minutes=3),
        GAP: lately(0.3, minutes=3),
        EFFECTIVE: lately(0.2, minutes=3),
        STALENESS: lately(4, minutes=3),
        "rank-0 headrace_train_grad_clipped_ratio": lately(1, minutes=3),
        'driver headrace_run_waited_for_seconds_total{stage="generation"}': lately(0, minutes=3, per_second=0.9),
        'driver headrace_run_waited_for_seconds_total{stage="training"}': lately(0, minutes=3, per_second=0.1),
        DEPTH.format("experience"): lately(80, minutes=3),
        CHECKPOINTS: lately(0, minutes=3),
        **{key: lately(0, minutes=3, per_second=5) for key in healthy if "_first_token_" in key and "+Inf" in key},
        TOKENS: lately(0, minutes=3, per_second=10),
    }


def _starting() -> Changes:
    """The driver has come up, and waits for its workers; nothing else is known."""
    known = ("driver up", STARTED, RUN_STEP, "driver headrace_run_steps_planned", MAX_STALENESS)
    usual: Changes = dict.fromkeys(healthy)
    return (
        usual
        | {key: lately(0, minutes=10) for key in known}
        | {
            "driver up": lately(1, minutes=10),
            STARTED: lately(END_S - 600, minutes=10),
            'driver headrace_run_waited_for_seconds_total{stage="start"}': lately(0, minutes=10, per_second=1),
        }
    )


def _elsewhere(key: str, *, port: int) -> str:
    return f'{key[:-1]},instance="h:{port}"}}' if key.endswith("}") else f'{key}{{instance="h:{port}"}}'


def _replaced() -> Changes:
    """The ranks and an engine died four minutes before the end and came back elsewhere after two; the ranks have gone back
    by ten steps."""
    moved = [key for key in healthy if key.startswith(("rank-0", "gen-0"))]
    newest = FIRST_STEP + END_S * STEPS_PER_S
    again = {key: lately(first(healthy[key]), minutes=2) for key in moved}
    again |= {key: lately(0, minutes=2) for key in moved if key.endswith("_total") or "_total{" in key}
    again |= {STEP: lately(newest - 14, minutes=2, per_second=STEPS_PER_S), SERVED: lately(newest - 4, minutes=2)}
    return {
        **dict.fromkeys(moved),
        **{_elsewhere(key, port=1): until(healthy[key], minutes=4) for key in moved},
        **{_elsewhere(key, port=2): values for key, values in again.items()},
        RESTARTS: switched(1, 2, minutes=4),
    }


NO_ALERT: Mapping[str, Changes] = {
    "healthy": {},
    "healthy on GPUs": gpu,
    "ended": {key: until(values, minutes=10) for key, values in healthy.items()},
    "starting": _starting(),
    "tiny": _tiny(),
    "workers were replaced": _replaced(),
    "synchronous": {MAX_STALENESS: steady(0), STALENESS: steady(0)},
}
"""On these nothing at all may fire."""
