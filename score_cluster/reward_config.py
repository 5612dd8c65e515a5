"""Settings of the reward: its components by kind, how they become one total, and what constrains it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

Precision = Literal["int8", "int8_weights", "float32", "bfloat16"]
"""int8 = per-channel weights and per-token dynamic activations; int8_weights = weights alone."""

SCALAR_HEAD = "score"
"""Of a reward model: the linear layer that makes a hidden state one number."""


class ComponentConfig(BaseModel):
    """What every component has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Of the component, in reports and metrics."""
    weight: float = 1.0
    """In the combination; a penalty returns numbers <= 0, so weights are positive. 0 = it only informs or constrains."""


class FunctionRewardConfig(ComponentConfig):
    """A Python function of one completion. `kind` may be left out."""

    kind: Literal["function"] = "function"
    """A function that the scorer imports."""
    function: str
    """`module:function`; see score_cluster.rewards for the signature."""
    arguments: dict[str, Any] = {}
    """Keyword arguments for the function, by name."""


class ModelRewardConfig(ComponentConfig):
    """A reward model, or an ensemble of them: the score at the last token of prompt and completion."""

    kind: Literal["model"]
    """A Hugging Face folder of a …ForSequenceClassification with one label, as reward training writes it."""
    path: str | None = None
    """The folder of one model; an ensemble gives `paths` instead."""
    paths: tuple[str, ...] = ()
    """The folders of an ensemble's members, two at least."""
    combine: Literal["mean", "min", "mean_minus_std"] = "min"
    """Of an ensemble: the least member is the safest against a policy that finds the errors of one of them."""
    std_factor: float = Field(default=1.0, ge=0)
    """k of mean − k · std over the members, with `mean_minus_std`."""
    engine: Literal["hf", "vllm"] = "hf"
    """vllm = its pooling engine, for a model larger than one GPU; it has no INT8 form here."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share the model, with `engine: vllm`."""
    precision: Precision | None = None
    """null = int8_weights, and bfloat16 with `engine: vllm`; the choices are those of scoring.reference.precision."""
    micro_batch_tokens: int = Field(default=4096, ge=1)
    """Tokens in one forward pass."""
    retokenise: bool = False
    """True: the text of prompt and completion is read by the model's own tokenizer and chat template; needed where that
    is not the policy's, and blind to tokens that leave no text."""

    @property
    def folders(self) -> tuple[str, ...]:
        """One, or the members of the ensemble."""
        return (self.path,) if self.path is not None else self.paths

    @property
    def precision_in_force(self) -> Precision:
        return self.precision or ("bfloat16" if self.engine == "vllm" else "int8_weights")


class HttpRewardConfig(ComponentConfig):
    """A service that scores the completions of a prompt: one POST a group (docs/scoring.md has the JSON)."""

    kind: Literal["http"]
    """A remote judge."""
    url: str
    """http:// or https://, without user and password."""
    token_variable: str | None = None
    """Environment variable that holds a bearer token, set where the scorers run."""
    token_file: str | None = None
    """File that holds a bearer token; it is read for every request, so that it may be renewed."""
    ca_file: str | None = None
    """Certificates to trust, PEM; null = the system's."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Of one request, from connecting to the last byte; above the slowest honest answer."""
    budget_s: float = Field(default=60.0, gt=0)
    """Of one group with all its retries; then the group fails."""
    retries: int = Field(default=4, ge=0)
    """Of one group, after time-outs, refused connections, 429 and 5xx."""
    retry_share: float = Field(default=0.2, ge=0)
    """Retries that each request earns for all groups together: a service that is down is not asked much more often than one
    that is up. A scorer starts with ten in hand."""
    concurrency: int = Field(default=8, ge=1)
    """Requests under way at a time, in each scorer."""


class LengthRewardConfig(ComponentConfig):
    """Minus `per_token` for every response token beyond `limit_tokens`."""

    kind: Literal["length"]
    """Against length as such."""
    limit_tokens: int = Field(default=500, ge=0)
    """Up to here length is free."""
    per_token: float = Field(default=0.001, ge=0)
    """A thousand tokens too many cost one point of reward."""


class OverlongRewardConfig(ComponentConfig):
    """Soft punishment of overlong responses (DAPO, Yu et al. 2025, equation 13): 0, then linear down to −1 at the end."""

    kind: Literal["overlong"]
    """Against responses that run into the limit."""
    max_tokens: int | None = Field(default=None, ge=1)
    """From here on −1; null = what the prompt may be answered with (generation.max_tokens)."""
    buffer_tokens: int | None = Field(default=None, ge=1)
    """The penalty begins so many tokens before; null = a fifth of `max_tokens`, as in DAPO (4,096 of 20,480)."""


def kind_of(value: Any) -> Any:
    """Which kind a component is of; a recipe may leave it out for a function."""
    return value.get("kind", "function") if isinstance(value, dict) else getattr(value, "kind", None)


RewardConfig = Annotated[
    Annotated[FunctionRewardConfig, Tag("function")]
    | Annotated[ModelRewardConfig, Tag("model")]
    | Annotated[HttpRewardConfig, Tag("http")]
    | Annotated[LengthRewardConfig, Tag("length")]
    | Annotated[OverlongRewardConfig, Tag("overlong")],
    Discriminator(kind_of),
]


class SumConfig(BaseModel):
    """The sum of weight × component."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sum"] = "sum"
    """What a weight means is said by the component's own scale."""


class NormalisedConfig(BaseModel):
    """The weighted sum of components that are standardised within their group first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["normalised"]
    """No component drowns another by its scale; needs groups of two or more."""


class LexicographicConfig(BaseModel):
    """Completions of a group are compared by the first component of the order that tells them apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["lexicographic"]
    """The total is the share of the group's others that a completion beats, less the share that beats it; in −1..1."""
    order: tuple[str, ...] = Field(min_length=1)
    """Names of components, the most important first; the others, and all weights, count for nothing."""
    tolerance: dict[str, float] = {}
    """By name: differences up to it leave the decision to the next component; 0 where there is none."""


CombineConfig = Annotated[SumConfig | NormalisedConfig | LexicographicConfig, Field(discriminator="kind")]


class ConstraintConfig(BaseModel):
    """Takes multiplier · max(0, threshold − r) off the total, r being the raw component."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    component: str
    """Name of a component."""
    threshold: float
    """τ: nothing is taken off from here up."""
    multiplier: float = Field(default=1.0, ge=0)
    """λ: what each unit below τ costs."""
