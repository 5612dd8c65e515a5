"""What can be checked before any worker starts, but needs files: model, tokenizer, prompts, reward functions, folders.

Nothing is written. Whatever is wrong is refused at once, one line `field = value: reason; remedy` each.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator import faults, own_redis, room
from orchestrator.config import Recipe
from orchestrator.critic import critic_folder
from orchestrator.data.preview import previews
from orchestrator.data.source import open_sources
from orchestrator.gpu_account import gpu_warnings
from orchestrator.metrics_server import port_problems
from orchestrator.modelfolder import ModelFolder, read_model, stop_tokens
from orchestrator.periodic import check as periodic
from orchestrator.plan import Plan, make_plan
from orchestrator.prompts import PromptIssuer, PromptSource, open_source
from orchestrator.recipe import RecipeError
from orchestrator.reward_checks import function_problems, model_problems, service_problems
from orchestrator.sinks import check as sinks

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Findings:
    source: PromptSource
    stop_token_ids: tuple[int, ...]
    plan: Plan


def check(
    recipe: Recipe,
    *,
    lineage: int = 0,
    warn: Callable[[str], None] = log.warning,
    tell: Callable[[str], None] = log.info,
) -> PromptIssuer:
    """Raise RecipeError with all problems, or give what issues the run's prompts; each warning goes to `warn`, what the
    run will write to `tell`.
    """
    found = _examine(recipe)
    tell(found.plan.writes())
    for line in found.plan.warnings:
        warn(line)
    own_redis.check_server(recipe, patient=True, warn=warn)  # last: it may wait, and nothing else is left to refuse
    return PromptIssuer(recipe, source=found.source, stop_token_ids=found.stop_token_ids, lineage=lineage)


def plan(recipe: Recipe) -> Plan:
    """The same checks, then what the run amounts to."""
    found = _examine(recipe).plan
    more: list[str] = []
    own_redis.check_server(recipe, patient=False, warn=more.append)
    return replace(found, warnings=(*found.warnings, *more))


def preview(recipe: Recipe) -> list[dict[str, Any]]:
    """What there is to see of the prompts. RecipeError with all problems of model and data; the rest is not looked at."""
    problems = _Problems()
    model = problems.collect(lambda: _read_policy(recipe))
    if model is None:
        problems.collect(lambda: open_sources(recipe.data))
    else:
        problems.lines += _context_problems(recipe, model)
    problems.refuse()
    assert model is not None
    return previews(open_source(recipe, model))


class _Problems:
    """Lines of independent checks, so that a user sees all of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def collect(self, check: Callable[[], T]) -> T | None:
        try:
            return check()
        except RecipeError as error:
            self.lines += error.lines
            return None

    def refuse(self) -> None:
        if self.lines:
            raise RecipeError(self.lines)


def _examine(recipe: Recipe) -> _Findings:
    problems = _Problems()
    if recipe.experience.url == "memory":
        problems.lines.append(
            "experience.url = memory: the processes of a run cannot share a buffer in memory; set experience.url=embedded"
        )
    problems.lines += own_redis.file_problems(recipe)
    problems.lines += function_problems(recipe.scoring)
    problems.lines += service_problems(recipe)
    problems.lines += _folder_problems(recipe)
    problems.lines += port_problems(recipe)
    problems.lines += _fault_problems()
    problems.lines += sinks.problems(recipe.sinks)
    model = problems.collect(lambda: _read_policy(recipe))
    source, stops, critic = None, None, None
    if model is None:  # the rows can be checked all the same
        problems.collect(lambda: open_sources(recipe.data))
    else:
        overlong = _context_problems(recipe, model)
        problems.lines += overlong
        problems.collect(lambda: _check_reference(recipe, model))
        problems.lines += model_problems(recipe, model)
        problems.lines += periodic.problems(recipe)
        critic = problems.collect(lambda: _read_critic(recipe, model, refused=problems.lines))
        stops = problems.collect(lambda: _stop_tokens(recipe, model))
        source = None if overlong else problems.collect(lambda: open_source(recipe, model))
    if source is not None:
        problems.lines += _pass_problems(recipe, source)
    problems.refuse()
    assert model is not None
    assert source is not None
    assert stops is not None
    draft = make_plan(recipe, model, source, critic=critic)
    warnings = (
        *_model_warnings(recipe, model, source, stops),
        *_data_warnings(source),
        *room.memory_warnings(recipe, draft),
        *gpu_warnings(recipe, draft.gpu),
        *room.disk_warnings(recipe, draft),
    )
    return _Findings(source=source, stop_token_ids=stops, plan=replace(draft, warnings=warnings))


def _read_policy(recipe: Recipe) -> ModelFolder:
    path = recipe.model.path
    if recipe.sft is not None and not Path(path).exists():
        raise RecipeError([f"model.path = {path}: there is no such folder yet; make it with `headrace sft` first"])
    return read_model(path, field="model.path", random_init=recipe.model.random_init)


def _stop_tokens(recipe: Recipe, model: ModelFolder) -> tuple[int, ...]:
    return stop_tokens(model, recipe.generation.stop_tokens, field="generation.stop_tokens")


def _context_problems(recipe: Recipe, model: ModelFolder) -> list[str]:
    engine, longest = recipe.generation.engine.max_model_tokens, recipe.generation.max_tokens
    if engine is not None and engine > model.context_tokens:
        return [
            f"generation.engine.max_model_tokens = {engine}: the context of {model.path} has {model.context_tokens} tokens; "
            f"set generation.engine.max_model_tokens={model.context_tokens} or less, or null"
        ]
    if longest >= (engine or model.context_tokens):
        return [
            f"generation.max_tokens = {longest}: leaves no room for a prompt in the context of {model.context_tokens} tokens "
            f"of {model.path}; set generation.max_tokens below it"
        ]
    return []


def _check_reference(recipe: Recipe, model: ModelFolder) -> None:
    config = recipe.scoring.reference
    if config is not None and config.path is not None:
        reference = read_model(config.path, field="scoring.reference.path")
        _check_companion(recipe, model, reference, field="scoring.reference.path", what="reference")


def _read_critic(recipe: Recipe, model: ModelFolder, *, refused: Sequence[str]) -> ModelFolder | None:
    """The folder that the critic starts from; None where the algorithm has none, or where a line of `refused` names the
    folder already. RecipeError: it does not fit the policy.
    """
    folder = critic_folder(recipe)
    if folder is not None and any(line.startswith(f"{folder.key} = ") for line in refused):
        return None
    if folder is None or folder.key == "model.path":
        return model if folder else None
    own = "training.algorithm.critic.path"
    try:
        critic = read_model(folder.path, field=folder.key, scalar=True)
        _check_companion(recipe, model, critic, field=folder.key, what="critic")
    except RecipeError as error:
        if folder.key == own:
            raise
        reason = error.lines[0].partition("; ")[0]
        raise RecipeError([f"{reason}, and PPO's critic would start from it; set {own}={model.path}"]) from None
    return critic


def _check_companion(recipe: Recipe, model: ModelFolder, other: ModelFolder, *, field: str, what: str) -> None:
    """A model that reads the policy's tokens. RecipeError: it cannot."""
    remedy = f"give a {what} of the same model family"
    if other.vocabulary != model.vocabulary:
        reason = (
            f"its vocabulary has {other.vocabulary} tokens, that of model.path = {model.path} has {model.vocabulary}"
        )
    elif other.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        reason = f"its tokenizer numbers tokens otherwise than that of model.path = {model.path}"
    elif other.context_tokens < (recipe.generation.engine.max_model_tokens or model.context_tokens):
        reason = f"its context has {other.context_tokens} tokens, fewer than the policy uses"
        remedy = f"set generation.engine.max_model_tokens={other.context_tokens}, or give another {what}"
    else:
        return
    raise RecipeError([f"{field} = {other.path}: {reason}; {remedy}"])


def _folder_problems(recipe: Recipe) -> list[str]:
    """Whether the folders that the run writes to can be made."""
    problems = []
    folders = {"run.root": recipe.run.root, "store.scratch": recipe.store.scratch}
    if not recipe.store.in_bucket:
        folders["store.url"] = recipe.store.url
    for key, value in folders.items():
        if value is not None and "://" in value:
            problems.append(f"{key} = {value}: an address, and only folders can be written to; name a folder")
        elif value is not None:
            existing = next(parent for parent in (Path(value), *Path(value).parents) if parent.exists())
            if not existing.is_dir():
                problems.append(f"{key} = {value}: {existing} is no folder; name another")
            elif not os.access(existing, os.W_OK | os.X_OK):
                problems.append(f"{key} = {value}: {existing} cannot be written to; name another, or change its mode")
    return problems


def _fault_problems() -> list[str]:
    """Of a variable for tests, which every worker would refuse as it starts."""
    try:
        faults.from_environment(os.environ, markers=Path(), driver_pid=0)
    except ValueError as error:
        return [f"{error}; correct or unset it"]
    return []


def _model_warnings(recipe: Recipe, model: ModelFolder, source: PromptSource, stops: tuple[int, ...]) -> list[str]:
    lines = []
    if not stops:
        lines.append(
            f"model.path = {model.path}: names no end-of-sequence token, so every response runs to "
            f"generation.max_tokens = {recipe.generation.max_tokens}; name eos_token_id in its generation_config.json"
        )
    longest = source.longest_tokens + recipe.generation.max_tokens
    if longest > recipe.training.micro_batch_tokens:
        lines.append(
            f"training.micro_batch_tokens = {recipe.training.micro_batch_tokens}: a sequence may have {longest} tokens, and "
            f"is never split, so that memory may exceed the plan; set training.micro_batch_tokens={longest}"
        )
    return lines


def _pass_problems(recipe: Recipe, source: PromptSource) -> list[str]:
    needed = recipe.run.steps * recipe.pacing.batch_groups
    if source.places is None or needed <= source.places:
        return []
    return [
        f"data.passes = {recipe.data.passes}: {recipe.run.steps} steps of {recipe.pacing.batch_groups} groups need {needed} "
        f"prompts, and these passes have {source.places}; raise data.passes, set data.passes=null, or set "
        f"run.steps={source.places // recipe.pacing.batch_groups} or less"
    ]


def _data_warnings(source: PromptSource) -> list[str]:
    lines = []
    for (key, path), one in zip(source.paths.items(), source.surveys, strict=True):
        where = f"{key.removesuffix('path')}metadata"
        if one.bad_rows:
            lines.append(f"{one.first_bad[0]} (bad rows of {one.name}, which are left out: {one.bad_rows})")
        if one.unfit:
            share = f"{one.unfit} of the {one.checked} prompts checked are passed over"
            lines.append(f"{key} = {path}: {share}; `headrace data` shows their lengths")
        if one.left_out:
            named = ", ".join(f"{column} ({kind})" for column, kind in one.left_out.items())
            lines.append(f"{key} = {path}: JSON cannot carry {named}, so no reward sees it; name the others in {where}")
    return lines
