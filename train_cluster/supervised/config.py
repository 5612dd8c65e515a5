"""Settings that every stage of supervised training has: fine-tuning, reward models."""

from pydantic import BaseModel, ConfigDict, Field


class StageConfig(BaseModel):
    """What a stage's own section extends. Ranks, packing, dtype, Adam's other settings: those of `training`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak, after the warm-up."""
    warmup_steps: int = Field(default=100, ge=0)
    """Linear from 0, then constant."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's; the other settings of training.optimizer apply as they are."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the rows, each in an order of its own."""
    eval_steps: int | None = Field(default=100, ge=1)
    """Steps between looks at the held-out rows; before the first step and after the last they are looked at anyway, and
    null = then alone."""
    checkpoint_steps: int = Field(default=100, ge=1)
    """Steps between checkpoints, from which a stage that was killed goes on."""
    checkpoint_s: float | None = Field(default=600.0, gt=0)
    """Also after so many seconds; null = by steps only."""
