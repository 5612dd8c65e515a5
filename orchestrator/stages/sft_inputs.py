"""What fine-tuning reads, checked and tokenised before any rank starts: the base model, the rows, what is held out.

Nothing is written. Whatever is wrong is refused at once, one line `field = value: reason; remedy` each.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe
from orchestrator.data.rows import refuse
from orchestrator.data.source import Source
from orchestrator.inputs import model_digest
from orchestrator.modelfolder import ModelFolder, read_model
from orchestrator.recipe import RecipeError
from orchestrator.stages.sft_examples import Examples, open_rows, read_examples, sources_of
from orchestrator.stages.work import result_problems
from train_cluster.schedule import total_steps
from train_cluster.supervised import sft_data
from train_cluster.supervised.sft_config import SftConfig
from train_cluster.supervised.sft_rows import Tokens

FREE_KEYS = frozenset(
    {"base", "path", "split", "held_out_path", "held_out_split", "held_out_share", "prompt_column", "completion_column",
     "messages_column", "train_on", "text_column", "response_template", "max_tokens", "too_long", "eval_steps",
     "checkpoint_steps", "checkpoint_s"}
)  # fmt: skip
"""Of `sft`: what comes from them is noted by its content, or they do not change the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SftInputs:
    trained: list[Tokens]
    held_out: list[Tokens]
    files: tuple[Examples, ...]
    steps: int
    tokenizer: Any
    made_from: Mapping[str, Any]
    """See orchestrator.stages.work.StageWork."""
    warnings: tuple[str, ...]


def examine(recipe: Recipe) -> SftInputs:
    """RecipeError with all problems."""
    config = recipe.sft
    if config is None:
        raise RecipeError(["sft = null: this recipe describes no fine-tuning; add an sft section with base and path"])
    problems: list[str] = []
    sources: list[Source] = []
    for key, one in sources_of(config).items():
        try:
            sources.append(open_rows(key, one, config))
        except RecipeError as error:
            problems += error.lines
    try:
        model = read_model(config.base, field="sft.base", random_init=config.random_init)
        problems += _model_problems(recipe, config, model)
    except RecipeError as error:
        problems = [*error.lines, *problems]
    problems += result_problems(Path(recipe.model.path), key="model.path", what="fine-tuning writes its result")
    refuse(problems)
    read = [read_examples(source, recipe, config, model) for source in sources]
    refuse([line for _, lines in read for line in lines])
    return _assemble(recipe, config, model, tuple(examples for examples, _ in read))


def _model_problems(recipe: Recipe, config: SftConfig, model: ModelFolder) -> Iterator[str]:
    if model.tokenizer.chat_template is None:
        remedy = f"put the chat template of the model into {config.base}"
        if config.messages_column is not None:
            yield f"sft.messages_column = {config.messages_column}: the tokenizer of sft.base has no chat template; {remedy}"
        elif recipe.data.chat_template and config.text_column is None:
            yield (
                f"data.chat_template = True: the tokenizer of sft.base has no chat template; {remedy}, or set "
                "data.chat_template=false"
            )
    if model.tokenizer.eos_token_id is None and config.messages_column is None:
        yield f"sft.base = {config.base}: its tokenizer has no eos token, so no answer could end; name one in its files"
    if config.max_tokens is not None and config.max_tokens > model.context_tokens:
        yield (
            f"sft.max_tokens = {config.max_tokens}: the context of sft.base has {model.context_tokens} tokens; "
            f"set sft.max_tokens={model.context_tokens} or less, or null"
        )


def _assemble(recipe: Recipe, config: SftConfig, model: ModelFolder, files: tuple[Examples, ...]) -> SftInputs:
    examples = files[0].kept
    for name, one in zip(("path", "held_out_path"), files, strict=False):
        if not one.kept:
            raise RecipeError(
                [f"sft.{name} = {one.path}: of {one.rows} rows none is left to use; set sft.too_long=truncate"]
            )
    trained, held_out = examples, files[1].kept if len(files) > 1 else []
    if config.held_out_share:
        kept, held = sft_data.split(examples, share=config.held_out_share, seed=recipe.run.seed)
        if not (kept and held):
            side = "held out" if kept else "left to train on"
            raise RecipeError(
                [
                    f"sft.held_out_share = {config.held_out_share}: of the prompts of {len(examples)} examples none would be "
                    f"{side}; set another share, or sft.held_out_path"
                ]
            )
        trained, held_out = [examples[i] for i in kept], [examples[i] for i in held]
    return SftInputs(
        trained=trained,
        held_out=held_out,
        files=files,
        steps=total_steps(len(trained), batch_units=config.batch_examples, epochs=config.epochs),
        tokenizer=model.tokenizer,
        made_from={
            **settings_of(recipe),
            "sft.base": model_digest(Path(config.base), weights=not config.random_init),
            "sft.path": sft_data.digest(trained, held_out),
        },
        warnings=tuple(_warnings(recipe, config, model, files, trained, held_out)),
    )


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What changes the weights, {the recipe's key: JSON value}, but for base and rows. Ranks, threads and the packing of rows
    only round otherwise, and may differ at a resume."""
    config, training = recipe.sft, recipe.training
    assert config is not None
    own = {name: value for name, value in config.model_dump(mode="json").items() if name not in FREE_KEYS}
    optimizer = training.optimizer.model_dump(mode="json")
    return {
        **{f"sft.{name}": value for name, value in own.items()},
        **{f"training.{name}": getattr(training, name) for name in ("dtype", "attention_dropout")},
        # Its learning rate, warm-up and weight decay are not in force.
        **{f"training.optimizer.{name}": value for name, value in optimizer.items() if name not in own},
        "run.seed": recipe.run.seed,
    }


def _warnings(
    recipe: Recipe,
    config: SftConfig,
    model: ModelFolder,
    files: tuple[Examples, ...],
    trained: list[Tokens],
    held_out: list[Tokens],
) -> Iterator[str]:
    longest = max(len(one.ids) for one in (*trained, *held_out))
    if longest > recipe.training.micro_batch_tokens:
        yield (
            f"training.micro_batch_tokens = {recipe.training.micro_batch_tokens}: an example has {longest} tokens, and is "
            f"never split, so that memory may exceed the plan; set training.micro_batch_tokens={longest}"
        )
    unended = sum(one.unended for one in files)
    if unended:
        yield (
            f"sft.base = {config.base}: its chat template ends the answer of {unended} examples without one of its stop "
            "tokens, so that the tuned model learns no end; name the token that it writes in generation_config.json"
        )
    for name, one in zip(("path", "held_out_path"), files, strict=False):
        if one.truncated or one.skipped:
            yield f"sft.{name} = {one.path}: of {one.rows} rows {one.truncated} were cut short and {one.skipped} left out"
    if len(files) > 1:
        known, asked = ({one.ids[: one.prompt_tokens].tobytes() for one in side} for side in (trained, held_out))
        both = len(known & asked)
        if both:
            yield (
                f"sft.held_out_path = {config.held_out_path}: {both} of its {len(asked)} prompts are trained as well; "
                "their loss says little"
            )
