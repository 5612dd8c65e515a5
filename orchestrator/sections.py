"""The recipe's sections that the orchestrator owns: the run, the model, supervision."""

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator


class RunConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """The run's id: names its folder, its keys in Redis and its groups."""
    seed: int = Field(default=0, ge=0, le=2**64 - 1)
    """Everything drawn at random follows from it."""
    steps: int = Field(ge=1)
    """Batches to train; a resume may raise it."""
    root: str = "runs"
    """Folder that holds one folder a run."""

    @field_validator("name")
    @classmethod
    def _is_a_slug(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", name) or len(name) > 63:
            raise ValueError(
                "it names folders and keys; use lower-case letters and digits, joined by . _ or -, at most 63 characters"
            )
        return name


class ModelConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """Hugging Face folder: config.json, tokenizer, safetensors."""
    random_init: bool = False
    """True: fresh weights drawn with run.seed; the folder then needs none."""


class SuperviseConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    heartbeat_s: float = Field(default=10.0, gt=0)
    """A worker silent for so long is dead; it is asked every second and answers from a thread of its own."""
    starting_s: float = Field(default=120.0, gt=0)
    """The same while it loads; first compiles take up to 60 s, large models need more."""
    restart_limit: int = Field(default=5, ge=0)
    """Deaths of one worker in a row; one more ends the run with the cause."""
    restart_backoff_s: float = Field(default=1.0, gt=0)
    """Wait before a restart; doubles with each in a row, up to a minute."""
    stall_s: float = Field(default=1800.0, gt=0)
    """No batch committed and no step trained for so long: the watchdog writes its diagnosis and ends the run."""
