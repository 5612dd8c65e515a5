"""What a recipe amounts to: sizes, processes, disk and memory, known before anything starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe
from orchestrator.data.survey import Survey
from orchestrator.disk import size
from orchestrator.gpu_account import GpuAccount, gpu_account
from orchestrator.modelfolder import ModelFolder, count_parameters, count_stored
from orchestrator.prompts import PromptSource
from score_cluster.reward_config import ModelRewardConfig
from train_cluster.config import HISTORY_STEPS

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "int8_weights": 1}
MASTER_BYTES = 12
"""A parameter in a checkpoint: float32 master weight and two moments."""
TOKEN_BYTES = 13
"""A response token in the ledger: id 4, sampled 1, behaviour log-prob 4, reference log-prob 4."""
PROCESS_BYTES = {"driver": 400e6, "generation": 1.9e9, "scoring": 0.9e9, "trainer": 0.85e9, "evaluation": 2.1e9}
"""A process with a tiny model on CPU, as measured: libraries, mostly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    run: str
    folder: str
    steps: int
    model: str
    model_kind: str
    parameters: int
    algorithm: str
    critic: str | None
    """The folder that the critic starts from; None where the algorithm has none."""
    critic_parameters: int
    context_tokens: int
    data: tuple[Survey, ...]
    prompts: int
    """Rows of all data sets."""
    longest_prompt_tokens: int
    passes: tuple[float, ...]
    """Over each data set, if no group is filtered or issued anew, and no prompt is passed over."""
    groups_per_step: int
    completions_per_step: int
    updates_per_step: int
    max_response_tokens_per_step: int
    max_response_tokens: int
    """Of the whole run."""
    max_staleness: int
    groups_in_flight: int
    processes: Mapping[str, int]
    version_bytes: int
    checkpoint_bytes: int
    max_batch_bytes: int
    """One batch in the ledger."""
    max_disk_bytes: int
    """Everything that the run keeps at the same time."""
    max_written_bytes: int
    """Of all versions, checkpoints and batches of the whole run, kept or not."""
    memory_bytes: Mapping[str, int]
    """By process, without activations."""
    gpu: GpuAccount | None = None
    """None where the recipe says nothing of GPUs."""
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(replace(self, gpu=None)) | {"gpu": self.gpu.as_dict() if self.gpu else None}

    def lines(self) -> list[str]:
        processes = ", ".join(f"{count} {name}" for name, count in self.processes.items())
        memory = ", ".join(f"{name} {size(count)}" for name, count in self.memory_bytes.items())
        return [
            f"run        {self.run}: {self.steps} steps in {self.folder}",
            f"model      {self.model_kind}, {self.parameters:,} parameters, context {self.context_tokens} tokens: {self.model}",
            f"trained    {self._trained()}",
            *(_data_line(one, passes) for one, passes in zip(self.data, self.passes, strict=True)),
            f"a step     {self.groups_per_step} groups, {self.completions_per_step} completions, {self.updates_per_step} "
            f"updates, at most {self.max_response_tokens_per_step:,} response tokens",
            f"in flight  at most {self.groups_in_flight} groups, staleness at most {self.max_staleness} steps",
            f"processes  {processes}",
            *(self.gpu.lines() if self.gpu else (f"memory     about, without activations: {memory}",)),
            f"{self._medium:<9}  at most {size(self.max_disk_bytes)} at a time, {size(self.max_written_bytes)} written in all: version "
            f"{size(self.version_bytes)}, checkpoint {size(self.checkpoint_bytes)}, batch {size(self.max_batch_bytes)}",
            *(f"warning    {line}" for line in self.warnings),
        ]

    def _trained(self) -> str:
        if self.critic is None:
            return f"the policy, by {self.algorithm}"
        return f"the policy and a critic of {self.critic_parameters:,} parameters, by {self.algorithm}: {self.critic}"

    @property
    def _medium(self) -> str:
        return "bucket" if "://" in self.folder else "disk"

    def writes(self) -> str:
        """The one line that a run begins with."""
        return f"{self._medium}: at most {size(self.max_disk_bytes)} at a time in {self.folder}, {size(self.max_written_bytes)} written in all"


def make_plan(recipe: Recipe, model: ModelFolder, source: PromptSource, *, critic: ModelFolder | None) -> Plan:
    """`critic`: the folder that it starts from; None where the algorithm has none."""
    generation, training, pacing = recipe.generation, recipe.training, recipe.pacing
    completions = pacing.batch_groups * generation.group_size
    tokens = completions * generation.max_tokens
    parameters = count_parameters(model)
    version = parameters * DTYPE_BYTES[training.dtype]
    # About: where it starts from an untied language model, the critic leaves that one's output layer out.
    critic_parameters = count_parameters(critic) if critic else 0
    checkpoint = (parameters + critic_parameters) * MASTER_BYTES
    # A batch holds a prompt once for its group; the text of the row is counted like its tokens.
    batch = tokens * TOKEN_BYTES + pacing.batch_groups * source.longest_tokens * 2 * 4
    return Plan(
        run=recipe.run.name,
        folder=f"{recipe.store.url}/{recipe.run.name}" if recipe.store.in_bucket else str(store_folder(recipe)),
        steps=recipe.run.steps,
        model=str(model.path),
        model_kind=model.kind,
        parameters=parameters,
        algorithm=training.algorithm.kind.upper(),
        critic=str(critic.path) if critic else None,
        critic_parameters=critic_parameters,
        context_tokens=generation.engine.max_model_tokens or model.context_tokens,
        data=source.surveys,
        prompts=len(source),
        longest_prompt_tokens=source.longest_tokens,
        passes=tuple(recipe.run.steps * pacing.batch_groups * one.share / one.rows for one in source.surveys),
        groups_per_step=pacing.batch_groups,
        completions_per_step=completions,
        updates_per_step=training.epochs_in_force * training.mini_batches_in_force(pacing.batch_groups),
        max_response_tokens_per_step=tokens,
        max_response_tokens=tokens * recipe.run.steps,
        max_staleness=pacing.max_staleness,
        groups_in_flight=(pacing.max_staleness + 1) * pacing.batch_groups,
        processes={
            "driver": 1,
            "experience server": 1,
            "generation": generation.workers,
            "scoring": recipe.scoring.workers,
            "trainer": training.ranks,
            **({"evaluation": 1} if recipe.evaluates_itself else {}),
        },
        version_bytes=version,
        checkpoint_bytes=checkpoint,
        max_batch_bytes=batch,
        max_written_bytes=_written_bytes(recipe, version=version, checkpoint=checkpoint, batch=batch),
        max_disk_bytes=_disk_bytes(recipe, version=version, checkpoint=checkpoint, batch=batch),
        memory_bytes=_memory_bytes(recipe, parameters, trained=parameters + critic_parameters),
        gpu=gpu_account(recipe, model, critic=critic),
    )


def _data_line(one: Survey, passes: float) -> str:
    facts = [f"{one.rows:,} rows", f"longest of {one.checked:,} {one.tokens_longest} tokens", f"{passes:.1f} passes"]
    if one.share < 1:
        facts.insert(0, f"{one.share:.1%}")
    if one.bad_rows:
        facts.append(f"{one.bad_rows} bad rows left out")
    if one.unfit:
        facts.append(f"{one.unfit} of those checked passed over")
    return f"prompts    {one.name}: {', '.join(facts)}"


def store_folder(recipe: Recipe) -> Path:
    """Where the run's blobs go, unless into a bucket."""
    return Path(recipe.store.url or recipe.run.root) / recipe.run.name


def _disk_bytes(recipe: Recipe, *, version: int, checkpoint: int, batch: int) -> int:
    """Versions of the staleness window and of kept cuts, cuts, batches; one more of each is there while it is written."""
    steps, keep = recipe.run.steps, recipe.training.checkpoint.keep
    cuts = min(keep, steps) + 1
    versions = min(recipe.pacing.max_staleness + 2 + keep, steps + 1) + 1
    if recipe.evaluates_itself:  # the best version and the one in evaluation with a cut each, and <run>/best
        cuts, versions = cuts + 2, versions + 3
    batches = min(steps, max(HISTORY_STEPS, keep * recipe.training.checkpoint.interval_steps))
    return versions * version + cuts * checkpoint + batches * batch


def _written_bytes(recipe: Recipe, *, version: int, checkpoint: int, batch: int) -> int:
    """Cuts by time are not foreseen; a group is in the server's append-only file as a completion and with its scores,
    then in the ledger."""
    steps = recipe.run.steps
    cuts = 2 + steps // recipe.training.checkpoint.interval_steps  # the first and the last beside those at intervals
    versions = 1 + -(-steps // recipe.pacing.publish_interval_batches)
    return versions * version + cuts * checkpoint + 3 * steps * batch


def _memory_bytes(recipe: Recipe, parameters: int, *, trained: int) -> dict[str, int]:
    training, engine = recipe.training, recipe.generation.engine
    weight = DTYPE_BYTES[training.dtype]
    state = {
        "driver": 0.0,
        "generation": parameters * DTYPE_BYTES[engine.dtype] + engine.kv_cache_gib * 1024**3,
        "scoring": _frozen_bytes(recipe, parameters),
        # Master, moments and a float32 gradient are shared out; the gathered forward weights are not.
        "trainer": trained * ((MASTER_BYTES + 4) / training.ranks + weight),
    }
    if recipe.evaluates_itself:  # an engine, and the reference in float32
        state["evaluation"] = state["generation"] + parameters * DTYPE_BYTES["float32"]
    return {name: int(size + PROCESS_BYTES[name]) for name, size in state.items()}


def _frozen_bytes(recipe: Recipe, parameters: int) -> float:
    """Of the reference, taken to be as large as the policy, and of all reward models."""
    scoring = recipe.scoring
    reference = parameters * DTYPE_BYTES[scoring.reference.precision] if scoring.reference else 0.0
    return reference + sum(
        DTYPE_BYTES[reward.precision_in_force] * count_stored(Path(path), f"scoring.rewards.{index}")
        for index, reward in enumerate(scoring.rewards)
        if isinstance(reward, ModelRewardConfig)
        for path in reward.folders
    )
