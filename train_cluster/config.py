"""Settings of the trainer."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

HISTORY_STEPS = 500
"""Batches that the ledger keeps for replays though no kept checkpoint needs them."""


class GrpoConfig(BaseModel):
    """Group-relative policy optimisation (Shao et al. 2024) with DAPO's clip-higher and token mean (Yu et al. 2025)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["grpo"] = "grpo"
    """The only algorithm."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """A token of negative advantage has no gradient once its ratio is below 1 - clip_low."""
    clip_high: float = Field(default=0.28, gt=0)
    """A token of positive advantage has none above 1 + clip_high; larger than clip_low, so that rare tokens can grow."""
    scale_by_std: bool = True
    """False: subtract the mean only (Dr. GRPO, Liu et al. 2025)."""
    filter_uniform: bool = False
    """True: groups whose rewards are all equal are settled as filtered (DAPO's dynamic sampling)."""


class CorrectionConfig(BaseModel):
    """Truncated importance sampling between the behaviour and the proximal policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tis", "none"] = "tis"
    """none = weights of 1, for fresh samples of an engine in the trainer's own dtype."""
    level: Literal["sequence", "token"] = "sequence"
    """One weight a response, the product over its tokens; or one a token, biased, of lower variance."""
    cap: float = Field(default=2.0, gt=0)
    """Largest weight."""


class KlConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    where: Literal["loss", "reward", "none"] = "loss"
    """loss = a term per token; reward = taken off the total before advantages; none = no penalty."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Schulman 2020. As a measure, k3 is unbiased, non-negative and of low variance. As a term of the loss only k2 has the
    expected gradient of KL(policy || reference); that of k3, GRPO's choice, is of the other direction, and that of k1 is
    zero (train_cluster.kl says why)."""
    coefficient: float = Field(default=0.02, ge=0)
    """beta_0; 0.02 at 7B, 0.05 at 70B, 0.1 at 405B."""
    adaptive: bool = False
    """Multiply beta by 1.5 above 1.5 x target, divide below target / 1.5; bounded to beta_0/10 .. 10 beta_0."""
    target_nats: float = Field(default=6.0, gt=0)
    """Per response."""


class OptimizerConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(default=5e-6 / 3, gt=0)
    """Full fine-tuning at 7B: a third of the LoRA rate 5e-6."""
    warmup_steps: int = Field(default=20, ge=0)
    """Linear from 0, then constant."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's, decoupled from the gradient."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of Adam's first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of Adam's second moment."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of Adam's second moment."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of an update's gradient; a larger one is scaled down to it."""


class CheckpointConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    interval_steps: int = Field(default=100, ge=1)
    """Steps between checkpoints."""
    interval_s: float | None = Field(default=600.0, gt=0)
    """Also after so many seconds; null = by steps only."""
    keep: int = Field(default=3, ge=1)
    """Newest checkpoints that stay."""


class TrainingConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    ranks: int = Field(default=1, ge=1)
    """ZeRO-3 processes that share the model."""
    algorithm: GrpoConfig = GrpoConfig()
    correction: CorrectionConfig = CorrectionConfig()
    kl: KlConfig = KlConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    epochs: int = Field(default=1, ge=1)
    """Passes over a batch."""
    mini_batches: int = Field(default=1, ge=1)
    """Optimizer updates a pass."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Tokens packed into one forward pass of a rank; sequences are never split. It bounds memory: attention costs what the
    sequences cost apart. On CPU 1024 or so is as fast as more."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of parameters in the forward pass; master weights are float32."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Above 0, each step begins with a pass without it for the proximal log-probs."""
    gradient_checkpointing: bool = False
    """True: activations are recomputed in the backward pass: less memory, more time."""
    threads: int = Field(default=1, ge=1)
    """Intra-op threads a rank on CPU; part of what makes a replay bit-identical."""
    collective_timeout_s: float = Field(default=60.0, gt=0)
    """A rank that waits so long for a peer inside a step fails, and all ranks start anew; start and files do not count."""
    compose_timeout_s: float = Field(default=600.0, gt=0)
    """Nothing moved in the buffer for so long while a batch was awaited: rank 0's log says what is missing, and where."""
