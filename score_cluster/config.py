"""Settings of the scoring workers."""

from pydantic import BaseModel, ConfigDict, Field

from score_cluster.reward_config import CombineConfig, ConstraintConfig, Precision, RewardConfig, SumConfig


class ReferenceConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    """Model folder; null = the policy's initial model."""
    precision: Precision = "int8_weights"
    """int8 = per-channel weights and per-token dynamic activations (torchao); int8_weights = weights alone: slower on CPU,
    but a trained model has outlier activations (SmolLM2-135M: 0.29 nats a token off with them, 0.08 without)."""
    micro_batch_tokens: int = Field(default=4096, ge=1)
    """Tokens in one forward pass."""
    gpus: int = Field(default=1, ge=1)
    """GPUs of a scorer that the layers are spread over, one after the other, for a model larger than one of them;
    ray.resources.scoring.gpus must be as many."""


class ScoringConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(default=1, ge=1)
    """Scorers, one process each."""
    rewards: tuple[RewardConfig, ...] = Field(min_length=1)
    """The components of the reward, one at least."""
    combine: CombineConfig = SumConfig()
    """How the components of a completion become its total."""
    constraints: tuple[ConstraintConfig, ...] = ()
    """Taken off the combined total."""
    reference: ReferenceConfig | None = ReferenceConfig()
    """null = no reference model: no KL can be measured."""
    groups_per_pass: int = Field(default=16, ge=1)
    """Groups leased and scored together."""
    reward_timeout_s: float = Field(default=60.0, gt=0)
    """What one reward function may take for the completions of one group before the group fails, as where it raises."""
    poll_interval_s: float = Field(default=0.05, gt=0)
    """Longest wait for completions before the scorer looks whether it shall stop."""
    threads: int = Field(default=1, ge=1)
    """Intra-op threads of the reference and of reward models."""
