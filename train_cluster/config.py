"""Settings of the trainer."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

PPO_EPOCHS, PPO_MINI_BATCHES = 4, 8
"""Unless a recipe says otherwise; of a batch of 128 responses each update then sees 16."""

HISTORY_STEPS = 500
"""Batches that the ledger keeps for replays though no kept checkpoint needs them."""


class CriticConfig(BaseModel):
    """The critic: a model of the policy's vocabulary with a scalar head, trained beside the policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    """Folder that it starts from, of a reward model (with its head) or of a language model (with a head of zeros); null =
    the reward model of scoring.rewards where there is exactly one component of kind model (of an ensemble its first) that
    reads the policy's tokens, else model.path."""
    learning_rate: float = Field(default=5e-6, gt=0)
    """Constant. Three times the policy's, since a critic that lags behind its policy misleads it; training.optimizer's
    other settings apply to both."""
    warmup_steps: int = Field(default=5, ge=0)
    """Steps at the beginning of a run in which the critic alone is trained, 160 updates: a reward model knows the value of
    whole answers only. The policy's own warm-up begins after them."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """How far a value may move from that at the start of the step before its gradient is 0, in units of reward; null = as far
    as it will. Known to bound single updates, not known to improve results (train_cluster.losses)."""
    loss_coefficient: float = Field(default=1.0, gt=0)
    """Of the value loss. Adam takes out its scale, so it says how early the gradient is clipped, no more."""


class PolicyLossConfig(BaseModel):
    """What every algorithm's loss has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """A token of negative advantage has no gradient once its ratio is below 1 - clip_low."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    """Of an entropy bonus per token; 0 = none, as usual for language models, whose reference keeps them broad."""


class PpoConfig(PolicyLossConfig):
    """Proximal policy optimisation with a critic (Schulman et al. 2017) and generalised advantage estimation (2016)."""

    kind: Literal["ppo"] = "ppo"
    """The default, and may be left out."""
    clip_high: float = Field(default=0.2, gt=0)
    """A token of positive advantage has none above 1 + clip_high."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a token; 1, since a reward is worth no less for a longer answer."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """1 = returns as they came, unbiased and noisy; 0 = the critic's word for all that follows the next token."""
    whiten_advantages: bool = True
    """Advantages of a batch get mean 0 and standard deviation 1 over its trained tokens, whatever the scale of rewards."""
    critic: CriticConfig = CriticConfig()


class GrpoConfig(PolicyLossConfig):
    """Group-relative policy optimisation (Shao et al. 2024) with DAPO's clip-higher and token mean (Yu et al. 2025)."""

    kind: Literal["grpo"] = "grpo"
    """Without a critic: the other samples of a prompt are the baseline."""
    clip_high: float = Field(default=0.28, gt=0)
    """A token of positive advantage has none above 1 + clip_high; larger than clip_low, so that rare tokens can grow."""
    scale_by_std: bool = True
    """False: subtract the mean only (Dr. GRPO, Liu et al. 2025)."""
    filter_uniform: bool = False
    """True: groups whose rewards are all equal are settled as filtered (DAPO's dynamic sampling)."""


def _kind(value: Any) -> Any:
    return value.get("kind", "ppo") if isinstance(value, dict) else getattr(value, "kind", None)


Algorithm = Annotated[
    Annotated[PpoConfig, Tag("ppo")] | Annotated[GrpoConfig, Tag("grpo")],
    Discriminator(_kind),
]


class CorrectionConfig(BaseModel):
    """Truncated importance sampling between the behaviour and the proximal policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tis", "none"] = "tis"
    """none = weights of 1, for fresh samples of an engine in the trainer's own dtype."""
    level: Literal["sequence", "token"] = "sequence"
    """One weight a response, the product over its tokens; or one a token, biased, of lower variance."""
    cap: float = Field(default=2.0, gt=0)
    """Largest weight."""


KlPlace = Literal["loss", "reward", "none"]
KlEstimator = Literal["k1", "k2", "k3"]


class KlConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    where: KlPlace | None = None
    """loss = a term per token; reward = taken off the reward before advantages; none = no penalty; null = the algorithm's
    own: reward for PPO, loss for GRPO."""
    estimator: KlEstimator | None = None
    """Schulman 2020; null = k1 in the reward, else k3. As a measure, k3 is unbiased, non-negative and of low variance. As a term of the loss only k2 has the
    expected gradient of KL(policy || reference); that of k3, GRPO's choice, is of the other direction, and that of k1 is
    zero (train_cluster.kl says why)."""
    coefficient: float = Field(default=0.02, ge=0)
    """beta_0; 0.02 at 7B, 0.05 at 70B, 0.1 at 405B."""
    adaptive: bool | None = None
    """Multiply beta by 1.5 above 1.5 x target, divide below target / 1.5; bounded to beta_0/10 .. 10 beta_0. null = the
    algorithm's own: true for PPO where there is a penalty, false for GRPO."""
    target_nats: float = Field(default=6.0, gt=0)
    """Per response."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KlInForce:
    """KlConfig with the algorithm's own choices in place of nulls."""

    where: KlPlace
    estimator: KlEstimator
    adaptive: bool
    coefficient: float
    target_nats: float


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
    algorithm: Algorithm = PpoConfig()
    correction: CorrectionConfig = CorrectionConfig()
    kl: KlConfig = KlConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    epochs: int | None = Field(default=None, ge=1)
    """Passes over a batch; null = the algorithm's own: 4 for PPO, 1 for GRPO."""
    mini_batches: int | None = Field(default=None, ge=1)
    """Optimizer updates a pass, of as many groups each; null = the algorithm's own: for PPO the largest number up to 8 that divides
    pacing.batch_groups, so of 16 responses each where a batch has 16 groups of 8; 1 for GRPO."""
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

    @property
    def epochs_in_force(self) -> int:
        return self.epochs or (PPO_EPOCHS if self.algorithm.kind == "ppo" else 1)

    def mini_batches_in_force(self, groups: int) -> int:
        """`groups`: of a batch."""
        if self.mini_batches is not None or self.algorithm.kind != "ppo":
            return self.mini_batches or 1
        return max(parts for parts in range(1, PPO_MINI_BATCHES + 1) if groups % parts == 0)

    @property
    def kl_in_force(self) -> KlInForce:
        ppo = self.algorithm.kind == "ppo"
        where: KlPlace = self.kl.where or ("reward" if ppo else "loss")
        penalised = where != "none" and self.kl.coefficient > 0
        return KlInForce(
            where=where,
            estimator=self.kl.estimator or ("k1" if where == "reward" else "k3"),
            adaptive=(ppo and penalised) if self.kl.adaptive is None else self.kl.adaptive,
            coefficient=self.kl.coefficient,
            target_nats=self.kl.target_nats,
        )
