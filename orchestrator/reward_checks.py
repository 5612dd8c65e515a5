"""What can be said of the components of a reward before any scorer starts: functions, model folders, services."""

import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

from orchestrator.config import Recipe
from orchestrator.modelfolder import ModelFolder, load_tokenizer
from orchestrator.recipe import RecipeError
from score_cluster import rewards
from score_cluster.config import ScoringConfig
from score_cluster.frozen import tokenizer_difference
from score_cluster.reward_config import FunctionRewardConfig, HttpRewardConfig, ModelRewardConfig
from score_cluster.reward_model import check_reward_folder


def reward_models(scoring: ScoringConfig) -> dict[str, str]:
    """The recipe's key of each folder of a reward model -> the folder."""
    found = {}
    for index, reward in enumerate(scoring.rewards):
        if isinstance(reward, ModelRewardConfig):
            if reward.path is not None:
                found[f"scoring.rewards.{index}.path"] = reward.path
            found |= {f"scoring.rewards.{index}.paths.{member}": path for member, path in enumerate(reward.paths)}
    return found


def function_problems(scoring: ScoringConfig) -> list[str]:
    """A line for each function that cannot be loaded."""
    problems = []
    for index, config in enumerate(scoring.rewards):
        if isinstance(config, FunctionRewardConfig):
            try:
                rewards.load(config)
            except ValueError as error:
                problems.append(f"scoring.rewards.{index}.function = {config.function}: {' '.join(str(error).split())}")
    return problems


def model_problems(recipe: Recipe, policy: ModelFolder) -> list[str]:
    """A line for each folder that is no reward model for this policy; no weight is read."""
    problems: list[str] = []
    context = recipe.generation.engine.max_model_tokens or policy.context_tokens
    for key, path in reward_models(recipe.scoring).items():
        reward = recipe.scoring.rewards[int(key.split(".")[2])]
        assert isinstance(reward, ModelRewardConfig)
        try:
            problems += _folder_problems(key, path, policy, context=context, retokenise=reward.retokenise)
        except RecipeError as error:
            problems += error.lines
        except ValueError as error:
            problems.append(str(error))
    return problems


def _folder_problems(key: str, path: str, policy: ModelFolder, *, context: int, retokenise: bool) -> Iterator[str]:
    if not os.path.isdir(path):
        yield f"{key} = {path}: there is no such folder; make it with `headrace reward train`, or name another"
        return
    check_reward_folder(path, field=key)
    tokenizer = load_tokenizer(path, field=key)
    where = key.partition(".path")[0]
    if not retokenise and (difference := tokenizer_difference(tokenizer, policy.tokenizer)):
        yield (
            f"{key} = {path}: its tokenizer is not that of model.path = {policy.path} ({difference}); "
            f"set {where}.retokenise=true to have it read the text, or give a reward model of the policy's own family"
        )
    own = json.loads((Path(path) / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    if isinstance(own, int) and own < context:
        yield (
            f"{key} = {path}: its context has {own} tokens, fewer than the {context} that the policy uses; "
            f"set generation.engine.max_model_tokens={own}, or give another reward model"
        )


def service_problems(recipe: Recipe) -> list[str]:
    """A line for each file or variable that a remote judge needs and that is not there."""
    problems: list[str] = []
    for index, reward in enumerate(recipe.scoring.rewards):
        if not isinstance(reward, HttpRewardConfig):
            continue
        where = f"scoring.rewards.{index}"
        for name in ("token_file", "ca_file"):
            path = getattr(reward, name)
            if path is not None and not (os.path.isfile(path) and os.access(path, os.R_OK)):
                problems.append(f"{where}.{name} = {path}: cannot be read; name a file that is there")
        if (
            reward.ca_file is not None
            and os.access(reward.ca_file, os.R_OK)
            and (why := _no_certificates(reward.ca_file))
        ):
            problems.append(f"{where}.ca_file = {reward.ca_file}: holds no certificates ({why}); give a PEM file")
        variable = reward.token_variable
        if variable is not None and not os.environ.get(variable) and recipe.ray.address == "local":
            problems.append(
                f"{where}.token_variable = {variable}: is not set in the environment; export it, or use token_file"
            )
    return problems


def _no_certificates(path: str) -> str:
    """Why a file is no bundle of certificates; "" where it is one."""
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # an SSLError, too
        return str(error)
    return ""
