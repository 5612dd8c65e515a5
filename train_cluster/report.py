"""What one training step says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticReport:
    """What a step says of its critic; values and returns are those of the start of the step, in units of reward."""

    loss: float
    """Mean over the step's updates: half the squared error, clipped."""
    clip_fraction: float
    """Share of trained tokens whose value had moved beyond the clip, over all updates."""
    explained_variance: float
    """1 − Var(return − value) / Var(return) over trained tokens: 1 = all known before, 0 = no better than a constant, below
    0 = worse. 0 where the returns do not vary."""
    value_mean: float
    """Over trained tokens."""
    return_mean: float
    """Over trained tokens; what the critic learns: advantage + value."""
    advantage_std: float
    """Over trained tokens, before whitening."""
    grad_norm: float
    """Before clipping, mean over the step's updates."""
    learning_rate: float
    updates: int
    """Optimizer calls made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """Numbers of one step over the whole batch, the same on every rank but for `seconds`.

    They measure and never decide: nothing here feeds back into training except `kl_per_response`, through the
    coefficient that the learner keeps.
    """

    step: int
    loss: float
    """Of the policy, mean over the step's updates, KL term and entropy bonus included."""
    reward_mean: float
    reward_std: float
    """Over all samples of the batch."""
    reward_components: Mapping[str, float]
    """Mean raw value by component."""
    reward_measures: Mapping[str, float]
    """Mean by measure of the scorers, `{component}.{measure}`, as the disagreement of an ensemble."""
    kl_per_response: float
    """Nats: the sum over a response's tokens, mean over responses; policy at the start of the step."""
    kl_per_token: float
    """Nats, mean over trained tokens."""
    kl_coefficient: float
    """In force during this step, `Controls.kl_scale` included."""
    entropy: float
    """Nats, mean over trained tokens, policy at the start of the step."""
    clip_fraction: float
    """Share of trained tokens whose surrogate was clipped, over all updates."""
    correction_capped: float
    """Share of trained tokens whose truncated importance weight hit the cap."""
    correction_mean: float
    """Mean weight over trained tokens."""
    correction_ess: float
    """Effective sample size of the weights as a share of their number: (sum w)² / (n · sum w²)."""
    grad_norm: float
    """Before clipping, mean over the step's updates."""
    grad_clipped_ratio: float
    """Share of these updates whose gradient was longer than the clip."""
    learning_rate: float
    tokens_trained: int
    """In one pass over the batch."""
    sequences: int
    updates: int
    """Optimizer calls made on the policy; mini-batches without a trained token make none, and so do steps that train the
    critic alone."""
    critic: CriticReport | None
    """None where the algorithm has none."""
    logprob_gap: float
    """Mean |trainer − engine| log-prob, nats, over the trained tokens of `logprob_gap_sequences`."""
    logprob_gap_sequences: int
    """Samples drawn by one version alone, the newest in the batch; 0 makes the gap 0."""
    logprob_gap_staleness: int
    """Steps between that version and this step's policy; the gap is pure engine error at 0, and holds drift above."""
    staleness_mean: float
    """Steps between a token's version and this step's policy, mean over sampled tokens."""
    staleness_max: float
    staleness_steps: Mapping[int, int]
    """{steps: responses}, by the oldest version that sampled a trained token of the response."""
    response_length_mean: float
    """Tokens."""
    truncated: float
    """Share of responses that ended by length."""
    finish_reasons: Mapping[str, int]
    """{reason: responses}"""
    masked: float
    """Share of response tokens that are not trained."""
    length_reward_correlation: float
    """Pearson's, of response length and total reward over the batch; 0 where one of them does not vary."""
    seconds: Mapping[str, float]
    """Wall time by phase on this rank: unpack, proximal, values (PPO), actor, critic (PPO)."""
