"""What the trainer tells Prometheus; rank 0 observes reports, since they are the same on every rank."""

from prometheus_client import Counter, Gauge, Histogram

from experience.late_gauge import LateGauge
from experience.wall_clock import WallSeconds
from train_cluster.report import CriticReport, StepReport

PHASES = ("start", "train", "publish", "checkpoint", "wait_batch", "other")
"""Of a rank's wall time; publish and checkpoint = the copies that training waits for."""

STALENESS_BUCKETS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32)
"""Every value up to the default bound of 4, coarser above."""
COPY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
"""From a toy model to 100 GB gathered."""
WRITE_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
"""From a toy model on a laptop to hundreds of gigabytes over a network."""

WALL = WallSeconds("headrace_train_wall_seconds_total", "Wall time of the rank, by what it was doing.", ["phase"])
STEP = LateGauge("headrace_train_step", "Newest trained step.")
LOSS = LateGauge("headrace_train_loss", "Loss, mean over the step's updates.")
REWARD_MEAN = LateGauge("headrace_train_reward_mean", "Total reward, mean over the batch.")
REWARD_STD = LateGauge("headrace_train_reward_std", "Total reward, standard deviation over the batch.")
COMPONENT = Gauge("headrace_train_reward_component", "Raw reward by component, mean over the batch.", ["component"])
MEASURE = Gauge(
    "headrace_train_reward_measure", "What scorers measure beside rewards, mean over the batch.", ["measure"]
)
KL_PER_RESPONSE = LateGauge("headrace_train_kl_per_response_nats", "KL to the reference, summed over a response.")
KL_PER_TOKEN = LateGauge("headrace_train_kl_per_token_nats", "KL to the reference, mean over trained tokens.")
KL_COEFFICIENT = LateGauge("headrace_train_kl_coefficient", "Coefficient of the KL term in force.")
ENTROPY = LateGauge("headrace_train_entropy_nats", "Entropy of the policy, mean over trained tokens.")
CLIP_FRACTION = LateGauge("headrace_train_clip_ratio", "Share of trained tokens whose surrogate was clipped.")
CAPPED = LateGauge(
    "headrace_train_correction_capped_ratio", "Share of trained tokens whose importance weight was capped."
)
WEIGHT = LateGauge("headrace_train_correction_weight_mean", "Importance weight, mean over trained tokens.")
EFFECTIVE = LateGauge("headrace_train_correction_effective_ratio", "Effective sample size of the weights, as a share.")
GRAD_NORM = LateGauge("headrace_train_grad_norm", "Gradient norm before clipping, mean over the step's updates.")
LEARNING_RATE = LateGauge("headrace_train_learning_rate", "Learning rate of the step.")
CRITIC_LOSS = LateGauge("headrace_train_critic_loss", "Loss of the critic, mean over the step's updates.")
CRITIC_CLIP_FRACTION = LateGauge("headrace_train_critic_clip_ratio", "Share of trained tokens whose value was clipped.")
EXPLAINED_VARIANCE = LateGauge(
    "headrace_train_critic_explained_variance_ratio", "1 - Var(return - value) / Var(return)."
)
VALUE_MEAN = LateGauge("headrace_train_critic_value_mean", "Value, mean over trained tokens, start of the step.")
RETURN_MEAN = LateGauge("headrace_train_critic_return_mean", "Return, mean over trained tokens.")
ADVANTAGE_STD = LateGauge("headrace_train_critic_advantage_std", "Advantage before whitening, standard deviation.")
CRITIC_GRAD_NORM = LateGauge(
    "headrace_train_critic_grad_norm", "Critic's gradient norm before clipping, mean over updates."
)
CRITIC_LEARNING_RATE = LateGauge("headrace_train_critic_learning_rate", "Learning rate of the critic in the step.")
CRITIC_UPDATES = Counter("headrace_train_critic_updates_total", "Optimizer updates of the critic.")
LOGPROB_GAP = LateGauge(
    "headrace_train_logprob_gap_nats", "Mean |trainer - engine| log-prob on the newest version's samples."
)
GAP_SEQUENCES = LateGauge("headrace_train_logprob_gap_sequences", "Samples that the gap was measured on.")
GAP_STALENESS = LateGauge("headrace_train_logprob_gap_staleness_steps", "Steps between that version and the policy.")
STALENESS_MEAN = LateGauge(
    "headrace_train_staleness_mean_steps", "Steps between a token's version and the policy, mean."
)
STALENESS_MAX = LateGauge("headrace_train_staleness_max_steps", "The same, maximum.")
LENGTH = LateGauge("headrace_train_response_length_tokens", "Response length, mean over the batch.")
TRUNCATED = LateGauge("headrace_train_truncated_ratio", "Share of responses that ended by length.")
TOKENS = Counter("headrace_train_tokens_total", "Tokens trained, each pass over a batch counted once.")
SEQUENCES = Counter("headrace_train_sequences_total", "Responses trained.")
UPDATES = Counter("headrace_train_updates_total", "Optimizer updates.")
STALENESS_STEPS = Histogram(
    "headrace_train_staleness_steps",
    "Steps between the oldest version in a response and the policy that trains on it.",
    buckets=STALENESS_BUCKETS,
)
STALENESS_VERSIONS = Histogram(
    "headrace_train_staleness_versions",
    "Publications between the oldest version in a response and the policy that trains on it.",
    buckets=STALENESS_BUCKETS,
)
MASKED = LateGauge("headrace_train_masked_ratio", "Share of response tokens that are not trained.")
GRAD_CLIPPED = LateGauge("headrace_train_grad_clipped_ratio", "Share of the step's updates whose gradient was clipped.")
LENGTH_REWARD = LateGauge(
    "headrace_train_length_reward_correlation", "Correlation of response length and total reward over the batch."
)
CHECKPOINT_SECONDS = Histogram(
    "headrace_train_checkpoint_seconds", "Writing a checkpoint behind the training.", buckets=WRITE_BUCKETS
)
CHECKPOINT_STALL = Histogram(
    "headrace_train_checkpoint_stall_seconds",
    "Copying the state for a checkpoint, which training waits for.",
    buckets=COPY_BUCKETS,
)
PUBLISH_STALL = Histogram(
    "headrace_train_publish_stall_seconds",
    "Copying the weights for a version, which training waits for.",
    buckets=COPY_BUCKETS,
)
DROPPED = Counter("headrace_train_dropped_groups_total", "Groups dropped since they held up a batch.")
PHASE_SECONDS = Histogram("headrace_train_phase_seconds", "Wall time of a step by phase.", ["phase"])

WORK_CPU_SECONDS = Counter(
    "headrace_train_work_cpu_seconds_total", "CPU seconds of a rank, all its threads, inside the learner's steps."
)


def observe(report: StepReport, *, publish_interval: int = 1) -> None:
    """Show a step's report. publish_interval: steps between two versions."""
    STEP.set(report.step)
    LOSS.set(report.loss)
    REWARD_MEAN.set(report.reward_mean)
    REWARD_STD.set(report.reward_std)
    for name, value in report.reward_components.items():
        COMPONENT.labels(name).set(value)
    for name, value in report.reward_measures.items():
        MEASURE.labels(name).set(value)
    KL_PER_RESPONSE.set(report.kl_per_response)
    KL_PER_TOKEN.set(report.kl_per_token)
    KL_COEFFICIENT.set(report.kl_coefficient)
    ENTROPY.set(report.entropy)
    CLIP_FRACTION.set(report.clip_fraction)
    CAPPED.set(report.correction_capped)
    WEIGHT.set(report.correction_mean)
    EFFECTIVE.set(report.correction_ess)
    GRAD_NORM.set(report.grad_norm)
    LEARNING_RATE.set(report.learning_rate)
    LOGPROB_GAP.set(report.logprob_gap)
    GAP_SEQUENCES.set(report.logprob_gap_sequences)
    GAP_STALENESS.set(report.logprob_gap_staleness)
    STALENESS_MEAN.set(report.staleness_mean)
    STALENESS_MAX.set(report.staleness_max)
    _observe_staleness(report, publish_interval=publish_interval)
    MASKED.set(report.masked)
    GRAD_CLIPPED.set(report.grad_clipped_ratio)
    LENGTH_REWARD.set(report.length_reward_correlation)
    LENGTH.set(report.response_length_mean)
    TRUNCATED.set(report.truncated)
    TOKENS.inc(report.tokens_trained)
    SEQUENCES.inc(report.sequences)
    UPDATES.inc(report.updates)
    if report.critic is not None:
        _observe_critic(report.critic)
    for phase, seconds in report.seconds.items():
        PHASE_SECONDS.labels(phase).observe(seconds)


def _observe_staleness(report: StepReport, *, publish_interval: int) -> None:
    """One observation a response. Versions are named by the step that they came after, so that those between two steps are
    counted by the multiples of the interval between them."""
    policy = report.step - 1
    for steps, responses in report.staleness_steps.items():
        versions = policy // publish_interval - (policy - steps) // publish_interval
        for _ in range(responses):
            STALENESS_STEPS.observe(steps)
            STALENESS_VERSIONS.observe(versions)


def _observe_critic(report: CriticReport) -> None:
    CRITIC_LOSS.set(report.loss)
    CRITIC_CLIP_FRACTION.set(report.clip_fraction)
    EXPLAINED_VARIANCE.set(report.explained_variance)
    VALUE_MEAN.set(report.value_mean)
    RETURN_MEAN.set(report.return_mean)
    ADVANTAGE_STD.set(report.advantage_std)
    CRITIC_GRAD_NORM.set(report.grad_norm)
    CRITIC_LEARNING_RATE.set(report.learning_rate)
    CRITIC_UPDATES.inc(report.updates)
