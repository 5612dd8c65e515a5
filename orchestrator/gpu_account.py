"""Whether the processes of a recipe fit its GPUs: what each takes, from the shapes of its models (gpu_memory)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe
from orchestrator.disk import size
from orchestrator.gpu_memory import (
    GIB,
    RUNTIME_BYTES,
    Parts,
    Shape,
    cached_tokens,
    engine_parts,
    frozen_activations,
    frozen_bytes,
    host_bytes,
    rank_parts,
)
from orchestrator.modelfolder import ModelFolder, count_parameters, count_stored, read_config
from orchestrator.recipe import RecipeError
from score_cluster.reward_config import ModelRewardConfig, Precision

WIDTH = {"float32": 4, "bfloat16": 2}
FULL_SHARE = 0.92
"""Of a card: above it a process gets a warning, as it would from the alert on a running one."""
VLLM_SHARE = 0.9
"""Of a card that vLLM takes for a reward model: its own default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleMemory:
    """One process of a role, on the fullest of its GPUs."""

    processes: int
    gpus: float
    """That one process holds."""
    parts: Parts
    limit_bytes: int
    """The card, or the share of it that the process holds."""
    note: str = ""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuAccount:
    card_bytes: int
    gpus: float
    """Of all processes together."""
    roles: dict[str, RoleMemory]
    rank_host_bytes: int
    """Main memory of one rank beside its libraries."""

    def lines(self) -> list[str]:
        head = f"gpus       {self.gpus:g} of {_gib(self.card_bytes)}; worked out, not measured; a GPU of each process:"
        return [head, *(_role_line(name, role) for name, role in self.roles.items()), self._host_line()]

    def as_dict(self) -> dict[str, Any]:
        roles = {
            name: {
                "processes": role.processes,
                "gpus": role.gpus,
                "parts": dict(role.parts),
                "total_bytes": role.total,
                "limit_bytes": role.limit_bytes,
                "note": role.note,
            }
            for name, role in self.roles.items()
        }
        facts = {"card_bytes": self.card_bytes, "gpus": self.gpus, "rank_host_bytes": self.rank_host_bytes}
        return {**facts, "roles": roles}

    def _host_line(self) -> str:
        return (
            f"           main memory of a rank: {size(self.rank_host_bytes)} for copies of a checkpoint and a version"
        )


def read_shape(folder: Path, *, field: str, parameters: int) -> Shape:
    """`parameters`: of all its weights. RecipeError: its config.json cannot be read."""
    config = read_config(folder, field=field)
    text = config.get_text_config()
    hidden, heads, vocabulary = text.hidden_size, text.num_attention_heads, text.vocab_size
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    head = getattr(text, "head_dim", None) or hidden // heads
    scalar = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    tables = 1 if scalar or config.tie_word_embeddings else 2
    return Shape(
        parameters=parameters,
        embedding_parameters=tables * vocabulary * hidden,
        layers=text.num_hidden_layers,
        hidden=hidden,
        query_width=heads * head,
        key_width=key_heads * head,
        key_heads=key_heads,
        intermediate=getattr(text, "intermediate_size", None) or 4 * hidden,
        vocabulary=vocabulary,
    )


def gpu_account(recipe: Recipe, model: ModelFolder, *, critic: ModelFolder | None) -> GpuAccount | None:
    """None: the recipe says nothing of GPUs (ray.gpu_memory_gib). `critic`: the folder that it starts from, if any."""
    if recipe.ray.gpu_memory_gib is None:
        return None
    card = int(recipe.ray.gpu_memory_gib * GIB)
    policy = read_shape(model.path, field="model.path", parameters=count_parameters(model))
    shapes = [policy]
    if critic is not None:
        shapes.append(read_shape(critic.path, field="training.algorithm.critic", parameters=count_parameters(critic)))
    training = recipe.training
    width = WIDTH[training.dtype]
    roles = {
        "generation": _engine(recipe, policy, card),
        "scoring": _scorer(recipe, policy, card),
        "training": _rank(recipe, shapes, card),
        **({"evaluation": _evaluator(recipe, policy, card)} if recipe.evaluates_itself else {}),
    }
    return GpuAccount(
        card_bytes=card,
        gpus=sum(role.processes * role.gpus for role in roles.values()),
        roles=roles,
        rank_host_bytes=host_bytes(shapes, ranks=training.ranks, weight_bytes=width),
    )


def gpu_warnings(recipe: Recipe, account: GpuAccount | None) -> list[str]:
    """RecipeError: a process that cannot fit."""
    if account is None:
        return []
    refused, warnings = list(_cache_problems(recipe, account)), []
    for name, role in account.roles.items():
        line = (
            f"ray.gpu_memory_gib = {recipe.ray.gpu_memory_gib:g}: a GPU of {name} would need about {_gib(role.total)} "
            f"of the {_gib(role.limit_bytes)} that it has; {_REMEDIES[name]}"
        )
        if role.total > role.limit_bytes:
            refused.append(line)
        elif role.total > FULL_SHARE * role.limit_bytes:
            warnings.append(line)
    if refused:
        raise RecipeError(refused)
    return warnings


_REMEDIES = {
    "generation": "lower generation.engine.memory_share, or raise generation.engine.tensor_parallel",
    "scoring": "raise scoring.reference.gpus and ray.resources.scoring.gpus, lower micro_batch_tokens, or take fewer models",
    "training": "raise training.ranks, set training.gradient_checkpointing=true, or lower training.micro_batch_tokens",
    "evaluation": "lower generation.engine.memory_share, or set evaluation.interval_steps=null",
}


def _cache_problems(recipe: Recipe, account: GpuAccount) -> Iterator[str]:
    """An engine whose KV cache has no room for one sequence does not start."""
    cache = account.roles["generation"].parts["KV cache"]
    if cache <= 0:
        yield (
            f"generation.engine.memory_share = {recipe.generation.engine.memory_share:g}: on cards of "
            f"{_gib(account.card_bytes)} it leaves no room for a KV cache beside the weights; "
            "raise generation.engine.tensor_parallel or the share"
        )


def _engine(recipe: Recipe, policy: Shape, card: int) -> RoleMemory:
    engine, role = recipe.generation.engine, recipe.ray.resources.generation
    gpus = float(engine.tensor_parallel if role.gpus is None else role.gpus)
    width = WIDTH[engine.dtype]
    parts = engine_parts(
        policy,
        card_bytes=card,
        memory_share=engine.memory_share,
        tensor_parallel=engine.tensor_parallel,
        weight_bytes=width,
        sequences=engine.max_sequences,
    )
    tokens = cached_tokens(policy, parts["KV cache"], tensor_parallel=engine.tensor_parallel, weight_bytes=width)
    longest = engine.max_model_tokens
    whole = f", {tokens // longest} sequences of {longest}" if longest else ""
    return RoleMemory(
        processes=recipe.generation.workers,
        gpus=gpus,
        parts=parts,
        limit_bytes=_limit(gpus, card),
        note=f"the cache of an engine holds {tokens:,} tokens{whole}",
    )


def _scorer(recipe: Recipe, policy: Shape, card: int) -> RoleMemory:
    """The reference lies on all of a scorer's GPUs, reward models on the first; of one pass at a time."""
    scoring, role = recipe.scoring, recipe.ray.resources.scoring
    parts, passes = {"runtime": RUNTIME_BYTES}, [0]
    reference = scoring.reference
    if reference is not None:
        shape = policy
        if reference.path is not None:
            stored = count_stored(Path(reference.path), "scoring.reference.path")
            shape = read_shape(Path(reference.path), field="scoring.reference.path", parameters=stored)
        parts["reference"] = frozen_bytes(shape, precision=reference.precision) // reference.gpus
        width = _float_width(reference.precision)
        passes.append(frozen_activations(shape, tokens=reference.micro_batch_tokens, weight_bytes=width, logits=True))
    for index, reward in enumerate(scoring.rewards):
        if isinstance(reward, ModelRewardConfig):
            for folder in map(Path, reward.folders):
                field = f"scoring.rewards.{index}.path"
                shape = read_shape(folder, field=field, parameters=count_stored(folder, field))
                taken = frozen_bytes(shape, precision=reward.precision_in_force)
                if reward.engine == "vllm":
                    taken = max(int(VLLM_SHARE * card), taken // reward.tensor_parallel)
                else:
                    width = _float_width(reward.precision_in_force)
                    passes.append(
                        frozen_activations(shape, tokens=reward.micro_batch_tokens, weight_bytes=width, logits=False)
                    )
                parts["reward models"] = parts.get("reward models", 0) + taken
    gpus = 1.0 if role.gpus is None else role.gpus
    parts["activations"] = max(passes)
    return RoleMemory(processes=scoring.workers, gpus=gpus, parts=parts, limit_bytes=_limit(gpus, card))


def _rank(recipe: Recipe, shapes: list[Shape], card: int) -> RoleMemory:
    training, role = recipe.training, recipe.ray.resources.training
    gpus = 1.0 if role.gpus is None else role.gpus
    parts = rank_parts(
        shapes,
        ranks=training.ranks,
        weight_bytes=WIDTH[training.dtype],
        tokens=training.micro_batch_tokens,
        recompute=training.gradient_checkpointing,
    )
    return RoleMemory(processes=training.ranks, gpus=gpus, parts=parts, limit_bytes=_limit(gpus, card))


def _evaluator(recipe: Recipe, policy: Shape, card: int) -> RoleMemory:
    """An engine, and the reference in float32 that measures its KL."""
    engine, role = _engine(recipe, policy, card), recipe.ray.resources.evaluation
    gpus = engine.gpus if role.gpus is None else role.gpus
    parts = {**engine.parts, "reference": frozen_bytes(policy, precision="float32")}
    return RoleMemory(processes=1, gpus=gpus, parts=parts, limit_bytes=_limit(gpus, card))


def _limit(gpus: float, card: int) -> int:
    return int(card * gpus) if 0 < gpus < 1 else card


def _float_width(precision: Precision) -> int:
    """Of activations."""
    return 2 if precision == "bfloat16" else 4


def _role_line(name: str, role: RoleMemory) -> str:
    parts = ", ".join(f"{what} {_gib(count)}" for what, count in role.parts.items())
    note = f"; {role.note}" if role.note else ""
    share = role.total / role.limit_bytes
    held = f"{role.processes} × {role.gpus:g} GPU"
    return f"           {name} ({held}): {_gib(role.total)}, {share:.0%} of what it has ({parts}{note})"


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
