"""The recipe: every setting of a run, one section an owner, and what of it may change when the run is resumed."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from experience.config import ExperienceConfig, PacingConfig
from gen_cluster.config import GenerationConfig
from orchestrator.data.config import DataConfig
from orchestrator.evaluation.config import EvaluationConfig
from orchestrator.metrics_config import MetricsConfig
from orchestrator.ray_config import RayConfig
from orchestrator.rules.every import violations
from orchestrator.sections import ModelConfig, RunConfig, SuperviseConfig
from orchestrator.sinks.config import SinksConfig
from score_cluster.config import ScoringConfig
from train_cluster.config import TrainingConfig
from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.supervised.sft_config import SftConfig
from weightstore.config import StoreConfig


class Recipe(BaseModel):
    """A run, complete: an instance has passed the rules of every section and those between them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    scoring: ScoringConfig
    generation: GenerationConfig = GenerationConfig()
    training: TrainingConfig = TrainingConfig()
    pacing: PacingConfig = PacingConfig()
    experience: ExperienceConfig = ExperienceConfig()
    store: StoreConfig = StoreConfig()
    ray: RayConfig = RayConfig()
    supervise: SuperviseConfig = SuperviseConfig()
    metrics: MetricsConfig = MetricsConfig()
    sinks: SinksConfig = SinksConfig()
    sft: SftConfig | None = None
    """For `headrace sft`: teaches the model before it is reinforced."""
    reward: RewardTrainingConfig | None = None
    """For `headrace reward train`: makes a reward model, which `scoring.rewards` names by its folder."""
    evaluation: EvaluationConfig | None = None
    """For `headrace eval`: who is better, by whose judgement."""

    @property
    def evaluates_itself(self) -> bool:
        """While it runs, with a process for it."""
        return self.evaluation is not None and self.evaluation.interval_steps is not None

    @model_validator(mode="after")
    def _sections_agree(self) -> "Recipe":
        lines = violations({name: getattr(self, name) for name in type(self).model_fields})
        if lines:
            raise ValueError("\n".join(lines))
        return self


RESUMABLE_KEYS: Mapping[str, str] = {
    "run.steps": "a run may be prolonged; lower than before is refused",
    "run.root": "a run's folder may have been moved",
    "sft": "it made the model before the run began",
    "reward": "it made a reward model before the run began; of that model the run keeps a hash",
    "evaluation": "what is measured, not what is trained",
    "ray": "where processes live does not enter the ledger",
    "supervise": "when to restart does not enter the ledger",
    "sinks": "who is told does not enter the ledger",
    "metrics": "who watches does not enter the ledger",
    "data.passes": "where the prompts end, not their order",
    "data.unfit_prompts": "whether such a prompt is passed over or ends the run: none was asked before",
    "generation.workers": "workers are stateless",
    "generation.deadline_base_s": "which groups failed is recorded in the ledger",
    "generation.deadline_per_token_s": "which groups failed is recorded in the ledger",
    "generation.poll_interval_s": "idle time only",
    "generation.engine.max_sequences": "capacity of an engine, not what it samples from",
    "generation.engine.memory_share": "capacity of an engine, not what it samples from",
    "generation.engine.kv_cache_gib": "capacity of an engine, not what it samples from",
    "generation.engine.threads": "capacity of an engine, not what it samples from",
    "scoring.workers": "workers are stateless",
    "scoring.groups_per_pass": "grouping of independent forward passes",
    "scoring.reward_timeout_s": "which groups failed is recorded in the ledger",
    "scoring.rewards.*.timeout_s": "which groups failed is recorded in the ledger",
    "scoring.rewards.*.budget_s": "which groups failed is recorded in the ledger",
    "scoring.rewards.*.retries": "which groups failed is recorded in the ledger",
    "scoring.rewards.*.retry_share": "which groups failed is recorded in the ledger",
    "scoring.rewards.*.concurrency": "speed only; the scores are recorded in the ledger",
    "scoring.rewards.*.token_variable": "who asks, not what is answered",
    "scoring.rewards.*.token_file": "who asks, not what is answered",
    "scoring.rewards.*.ca_file": "who asks, not what is answered",
    "scoring.poll_interval_s": "idle time only",
    "scoring.reference.gpus": "where the same numbers are worked out",
    "scoring.threads": "speed only; the scores are recorded in the ledger",
    "training.ranks": "checkpoints load on any world size; recorded per life, and bit-identity ends there",
    "training.threads": "recorded per life, and bit-identity ends there",
    "training.checkpoint": "when to cut does not change what is trained",
    "training.collective_timeout_s": "when to give up on a peer, not what is trained",
    "training.compose_timeout_s": "when to complain, not what is trained",
    "pacing.late": "which groups were dropped is recorded in the ledger",
    "experience.url": "the groups in flight stay behind and are issued anew; the ledger says what was trained",
    "experience.username": "who connects, not what is there",
    "experience.password_file": "who connects, not what is there",
    "experience.ca_file": "who connects, not what is there",
    "experience.certificate_file": "who connects, not what is there",
    "experience.key_file": "who connects, not what is there",
    "experience.fsync": "durability of the server, not its content",
    "experience.capacity_groups": "admission keeps below it whatever it is",
    "experience.memory_mib": "admission keeps below it whatever it is",
    "experience.lease_s": "when to re-serve, not what is served",
    "experience.alone_limit": "what was quarantined is recorded in the ledger",
    "experience.retry_s": "patience only",
    "store.fetch_threads": "speed only",
    "store.retry_s": "patience only",
    "store.scratch": "where files pass through, not what is in them",
}
"""Key, or section with all below it -> why it may change at a resume; * = every entry of a list. All other keys make the fingerprint."""

_ABSENT = "(absent)"


def fingerprint(recipe: Recipe) -> str:
    """SHA-256 of the canonical JSON of all keys that may not change while a run lives."""
    fixed = {key: value for key, value in flatten(recipe).items() if not resumable(key)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> JSON value, for every leaf; entries of lists are numbered."""
    return dict(_leaves("", recipe.model_dump(mode="json")))


def resumable(key: str) -> bool:
    parts = ["*" if part.isdecimal() else part for part in key.split(".")]
    return any(".".join(parts[:end]) in RESUMABLE_KEYS for end in range(1, len(parts) + 1))


def changed_keys(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Key -> (old, new) of every leaf that differs, sorted by key."""
    before, after = flatten(old), flatten(new)
    return {
        key: (before.get(key, _ABSENT), after.get(key, _ABSENT))
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    }


def resume_violations(old: Recipe, new: Recipe) -> list[str]:
    """One line for each change that a resume refuses."""
    lines = [
        f"{key} = {value}: this run was started with {was}, and a resume cannot change it; "
        f"set {key}={was}, or start another run under a new run.name"
        for key, (was, value) in changed_keys(old, new).items()
        if not resumable(key)
    ]
    if new.run.steps < old.run.steps:
        lines.append(
            f"run.steps = {new.run.steps}: this run was started with {old.run.steps}, and a resume can only raise it; "
            f"set run.steps={old.run.steps} or more, or stop the run with `headrace stop {old.run.name}`"
        )
    return lines


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    children = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if not children:
        yield prefix, value
    for name, child in children:
        yield from _leaves(f"{prefix}.{name}" if prefix else str(name), child)
