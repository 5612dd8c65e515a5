"""What reward training reads, checked before any rank starts: the base model, the pairs, what is held out.

Nothing is written. Whatever is wrong is refused at once, one line `field = value: reason; remedy` each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe
from orchestrator.inputs import model_digest
from orchestrator.modelfolder import ModelFolder, read_model
from orchestrator.recipe import RecipeError
from orchestrator.stages.work import result_problems
from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.reward.pair_data import Data, read_data
from train_cluster.reward.pair_split import member_pairs
from train_cluster.reward.pair_text import Template
from train_cluster.reward.pairs import BadPairs
from train_cluster.schedule import total_steps

FREE_KEYS = frozenset({"base", "path", "held_out_path", "out", "eval_steps", "checkpoint_steps", "checkpoint_s"})
"""Of `reward`: what is noted by its content, and what does not change the weights."""
FEW_HELD_OUT = 100
"""Pairs; with fewer the interval of the accuracy is wider than the healthy range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardInputs:
    config: RewardTrainingConfig
    """With its base named."""
    data: Data
    steps: int
    """Of the longest member."""
    made_from: Mapping[str, Any]
    """See orchestrator.stages.work.StageWork."""
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """--dry-run."""
        split = self.data.split
        return {
            "base": self.config.base,
            "out": self.config.out,
            "members": self.config.members,
            "steps": self.steps,
            "train_pairs": len(split.train),
            "train_prompts": len({pair.prompt_key for pair in split.train}),
            "held_out_pairs": len(split.held_out),
            "held_out_prompts": len({pair.prompt_key for pair in split.held_out}),
            "overlapping_pairs": split.overlapping,
            "longest_pair_tokens": max(pair.tokens for pair in (*split.train, *split.held_out)),
            "files": [file.counts() for file in self.data.files],
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """--dry-run, for people."""
        found = self.as_dict()
        what = "a reward model" if self.config.members == 1 else f"an ensemble of {self.config.members} reward models"
        lines = [
            f"would train {what} on {found['base']}, {found['steps']} steps of {self.config.batch_pairs} pairs, and write "
            f"{found['out']}",
            f"{found['train_pairs']} pairs of {found['train_prompts']} prompts to train on, {found['held_out_pairs']} pairs of "
            f"{found['held_out_prompts']} held out; the longest has {found['longest_pair_tokens']} tokens",
        ]
        return [*lines, *(f"warning: {line}" for line in self.warnings)]


def examine(recipe: Recipe, *, afresh: bool = True) -> RewardInputs:
    """RecipeError with all problems. afresh: one is that the result is there already."""
    if recipe.reward is None:
        raise RecipeError(
            ["reward = null: this recipe describes no reward model; add a reward section with path and out"]
        )
    given = recipe.reward
    config = given.model_copy(
        update={
            "base": given.base or recipe.model.path,
            "random_init": given.random_init or (given.base is None and recipe.model.random_init),
        }
    )
    assert config.base is not None
    problems: list[str] = []
    data = None
    try:
        field = "model.path" if given.base is None else "reward.base"
        model = read_model(config.base, field=field, random_init=config.random_init)
        problems += _tokenizer_problems(recipe, config, model, field)
        if not problems:
            data = _read(recipe, config, model)
    except RecipeError as error:
        problems += error.lines
    if afresh:
        problems += result_problems(Path(config.out), key="reward.out", what="the reward model is written")
    if problems or data is None:
        raise RecipeError(problems)
    steps = _steps(recipe, config, data)
    return RewardInputs(
        config=config,
        data=data,
        steps=steps,
        made_from=_made_from(recipe, config, data),
        warnings=tuple(_warnings(recipe, config, data, steps)),
    )


def _read(recipe: Recipe, config: RewardTrainingConfig, model: ModelFolder) -> Data:
    template = Template(
        tokenizer=model.tokenizer,
        chat_template=recipe.data.chat_template,
        system_prompt=recipe.data.system_prompt,
    )
    try:
        return read_data(config, template, max_tokens=model.context_tokens, seed=recipe.run.seed)
    except BadPairs as error:
        raise RecipeError(error.lines) from error
    except ValueError as error:
        raise RecipeError([f"reward.path = {config.path}: {error}; give more pairs"]) from error


def _tokenizer_problems(recipe: Recipe, config: RewardTrainingConfig, model: ModelFolder, field: str) -> Iterator[str]:
    if recipe.data.chat_template and model.tokenizer.chat_template is None:
        yield (
            f"data.chat_template = True: the tokenizer of {field} = {config.base} has no chat template; put the model's there, "
            "or set data.chat_template=false"
        )
    if model.tokenizer.eos_token_id is None:
        yield f"{field} = {config.base}: its tokenizer has no eos token, so no answer could end; name one in its files"


def _steps(recipe: Recipe, config: RewardTrainingConfig, data: Data) -> int:
    try:
        sizes = [
            len(
                member_pairs(
                    data.split.train,
                    member=member,
                    members=config.members,
                    kind=config.member_data,
                    seed=recipe.run.seed,
                )
            )
            for member in range(config.members)
        ]
    except ValueError as error:
        raise RecipeError(
            [f"reward.members = {config.members}: {error}; set reward.members lower, or give more pairs"]
        ) from error
    return total_steps(max(sizes), batch_units=config.batch_pairs, epochs=config.epochs)


def _made_from(recipe: Recipe, config: RewardTrainingConfig, data: Data) -> dict[str, Any]:
    """What changes the weights. Ranks, threads and the packing of rows only round otherwise, and may differ at a resume."""
    own = {f"reward.{name}": value for name, value in config.model_dump(mode="json").items() if name not in FREE_KEYS}
    optimizer = recipe.training.optimizer.model_dump(mode="json")
    shared = {
        f"training.optimizer.{name}": value
        for name, value in optimizer.items()
        if name not in ("learning_rate", "warmup_steps", "weight_decay")  # those of reward are in force
    }
    keys = ("reward.path", "reward.held_out_path")
    return {
        **own,
        **shared,
        "training.dtype": recipe.training.dtype,
        "data.chat_template": recipe.data.chat_template,
        "data.system_prompt": recipe.data.system_prompt,
        "run.seed": recipe.run.seed,
        "reward.base": model_digest(Path(config.base or ""), weights=not config.random_init),
        **{key: file.sha256 for key, file in zip(keys, data.files, strict=False)},
    }


def _warnings(recipe: Recipe, config: RewardTrainingConfig, data: Data, steps: int) -> Iterator[str]:
    split, limit = data.split, recipe.training.micro_batch_tokens
    longest = max(pair.tokens for pair in (*split.train, *split.held_out))
    if longest > limit:
        yield (
            f"training.micro_batch_tokens = {limit}: a pair has {longest} tokens, and is never split, so that memory may "
            f"exceed the plan; set training.micro_batch_tokens={longest}"
        )
    if config.warmup_steps >= steps:
        yield (
            f"reward.warmup_steps = {config.warmup_steps}: there are {steps} steps, so the learning rate never stays at "
            f"its peak; set reward.warmup_steps={max(1, steps // 10)}, or give more pairs"
        )
    if len(split.held_out) < FEW_HELD_OUT:
        key = "held_out_share" if config.held_out_path is None else "held_out_path"
        yield (
            f"reward.{key} = {getattr(config, key)}: {len(split.held_out)} held-out pairs tell the accuracy only roughly; "
            f"{FEW_HELD_OUT} or more are better"
        )
    for key, file in zip(("path", "held_out_path"), data.files, strict=False):
        where = f"reward.{key} = {file.path}"
        if file.bad:
            yield f"{where}: {sum(file.bad.values())} of {file.rows} rows are left out; the first: {file.first_bad}"
        if file.disagreed:
            yield (
                f"{where}: in {file.disagreed} of {file.rows} rows fewer than {config.agreement:.0%} of the annotators are for "
                f"the chosen answer; these are left out (reward.min_agreement; {file.several_annotators} rows have several)"
            )
    if split.overlapping:
        yield (
            f"reward.held_out_path = {config.held_out_path}: {split.overlapping} pairs of reward.path have one of its prompts "
            "and are left out of training"
        )
