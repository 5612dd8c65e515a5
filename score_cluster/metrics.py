"""What a scorer tells Prometheus."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from prometheus_client import Counter, Gauge, Histogram

from experience.late_gauge import LateGauge
from experience.schema import SampleScore
from experience.wall_clock import WallSeconds
from score_cluster.diversity import Diversity

PHASES = ("start", "rewards", "reference", "exchange", "wait_completions", "other")
"""Of a scorer's wall time; exchange = calls of the buffer."""

WALL = WallSeconds("headrace_score_wall_seconds_total", "Wall time of the scorer, by what it was doing.", ["phase"])
GROUPS = Counter("headrace_score_groups_total", "Groups scored and handed on.")
SAMPLES = Counter("headrace_score_samples_total", "Completions of these groups.")
TOKENS = Counter("headrace_score_tokens_total", "Response tokens of these groups.")
LATE = Counter("headrace_score_late_groups_total", "Groups scored after their lease had gone to another worker.")
FAILURES = Counter("headrace_score_failures_total", "Groups given back, by what failed.", ["component"])

REWARD = Histogram(
    "headrace_score_reward",
    "Raw reward of a completion, by component.",
    ["component"],
    buckets=(
        -10,
        -5,
        -2,
        -1,
        -0.5,
        -0.2,
        -0.1,
        -0.05,
        0,
        0.05,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
        0.8,
        0.9,
        1,
        2,
        5,
        10,
    ),
)
REWARD_MEAN = Gauge(
    "headrace_score_reward_mean",
    "Raw reward by component, mean over the last pass (a histogram of negative values has no sum).",
    ["component"],
)
DISAGREEMENT = Gauge(
    "headrace_score_disagreement",
    "Standard deviation over the members of an ensemble, mean over the last pass.",
    ["component"],
)
UNIQUE = LateGauge(
    "headrace_score_unique_ratio", "Distinct responses among those of a prompt, as a share; mean over the last pass."
)
DISTINCT = Gauge(
    "headrace_score_distinct_ratio",
    "Distinct token n-grams over a prompt's responses, as a share of all; mean over the last pass.",
    ["n"],
)
SPREAD = LateGauge(
    "headrace_score_reward_spread", "Standard deviation of the total within a group; mean over the last pass."
)
EQUAL = LateGauge(
    "headrace_score_equal_groups_ratio", "Share of the groups whose rewards are all equal, in the last pass."
)
PASS_SECONDS = Histogram("headrace_score_pass_seconds", "Decoding, rewards and reference of one pass.")
REWARDS_SECONDS = Histogram("headrace_score_rewards_seconds", "The rewards' part of one pass.")
REFERENCE_SECONDS = Histogram("headrace_score_reference_seconds", "The reference's part of one pass.")
WORK_CPU_SECONDS = Counter(
    "headrace_score_work_cpu_seconds_total",
    "CPU seconds of the process, all its threads, in decoding, rewards and reference.",
)
COMPONENT_SECONDS = Counter(
    "headrace_score_component_seconds_total", "Wall time in which a reward was asked, by component.", ["component"]
)
KL_NOISE_FLOOR = LateGauge(
    "headrace_score_kl_noise_floor_nats",
    "KL per response between version 0 of the policy and the reference: what INT8 alone makes of equal weights.",
)
KL_BELOW_NOISE = LateGauge(
    "headrace_score_kl_target_below_noise",
    "1 while the trainer's KL target is below the noise floor, else 0.",
)


def observe_rewards(scores: Iterable[SampleScore]) -> None:
    """Those of one pass."""
    components, disagreements = defaultdict(list), defaultdict(list)
    for score in scores:
        for name, value in score.components.items():
            REWARD.labels(name).observe(value)
            components[name].append(value)
        for name, value in score.measures.items():
            if name.endswith(".disagreement"):
                disagreements[name.removesuffix(".disagreement")].append(value)
    for gauge, means in ((REWARD_MEAN, components), (DISAGREEMENT, disagreements)):
        for name, values in means.items():
            gauge.labels(name).set(sum(values) / len(values))


def observe_diversity(groups: Sequence[Diversity]) -> None:
    """Those of one pass."""
    if not groups:
        return
    for n, shares in enumerate(zip(*(group.distinct for group in groups), strict=True), start=1):
        DISTINCT.labels(str(n)).set(sum(shares) / len(groups))
    several = [group.among for group in groups if group.among is not None]
    if several:
        UNIQUE.set(sum(among.unique for among in several) / len(several))
        SPREAD.set(sum(among.spread for among in several) / len(several))
        EQUAL.set(sum(among.equal for among in several) / len(several))
