"""Settings of the generation workers."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EngineConfig(BaseModel):
    """What vLLM is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_sequences: int = Field(default=256, ge=1)
    """Sequences in flight (32 fit a 24 GB card)."""
    max_model_tokens: int | None = Field(default=None, ge=2)
    """Prompt and response together; null = the model's own context."""
    memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of GPU memory; unused on CPU."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """KV cache on CPU, GiB, zeroed at start (0.35 s each); unused on GPU."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share one engine."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights that the engine samples with; bfloat16 is slower on a CPU without matrix units."""
    enforce_eager: bool = True
    """No graph capture: start-up in seconds, and on CPU there is none to gain from."""
    threads: int = Field(default=2, ge=1)
    """OpenMP threads on CPU."""


class GenerationConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: int = Field(default=1, ge=1)
    """Engines, one process each."""
    group_size: int = Field(default=8, ge=1)
    """G: samples a prompt; GRPO's default."""
    temperature: float = Field(default=1.0, gt=0)
    """Trainer and reference divide their logits by it as well."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Training refuses anything but 1: truncated sampling makes the behaviour log-probs of another policy."""
    top_k: int = Field(default=0, ge=0)
    """Training refuses anything but 0."""
    max_tokens: int = Field(default=512, ge=1)
    """Response tokens."""
    stop_tokens: tuple[str | int, ...] = ()
    """Beside the model's own end-of-sequence tokens, what ends a response: texts that are one token of the vocabulary, or token ids. The token is sampled like any other, and stays the response's last."""
    deadline_base_s: float = Field(default=60.0, gt=0)
    """What a group may take whatever its length; see deadline_per_token_s."""
    deadline_per_token_s: float = Field(default=0.5, gt=0)
    """A group fails after base + per_token * max_tokens; 64 x 128 tokens of a 135M model take 42 s on two cores."""
    poll_interval_s: float = Field(default=0.05, gt=0)
    """Between looks for a newer version, and for prompts when idle."""
    engine: EngineConfig = EngineConfig()

    @property
    def deadline_s(self) -> float:
        """What a group may take before it fails."""
        return self.deadline_base_s + self.deadline_per_token_s * self.max_tokens
