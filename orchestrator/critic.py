"""Which folder PPO's critic starts from: a choice between sections of the recipe."""

from dataclasses import dataclass

from orchestrator.config import Recipe
from score_cluster.reward_config import ModelRewardConfig
from train_cluster.config import PpoConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class CriticFolder:
    path: str
    key: str
    """Of the recipe that names it."""


def critic_folder(recipe: Recipe) -> CriticFolder | None:
    """The one that is named; else the one reward model of the recipe (of an ensemble its first), which knows most of what
    the critic is to learn, unless it has a tokenizer of its own; else the policy's own. None: the algorithm has no critic.
    """
    algorithm = recipe.training.algorithm
    if not isinstance(algorithm, PpoConfig):
        return None
    if algorithm.critic.path is not None:
        return CriticFolder(path=algorithm.critic.path, key="training.algorithm.critic.path")
    models = [(i, one) for i, one in enumerate(recipe.scoring.rewards) if isinstance(one, ModelRewardConfig)]
    if len(models) != 1 or models[0][1].retokenise:  # which of them would be a guess; or it reads other tokens
        return CriticFolder(path=recipe.model.path, key="model.path")
    index, model = models[0]
    key = f"scoring.rewards.{index}.path" if model.path is not None else f"scoring.rewards.{index}.paths.0"
    return CriticFolder(path=model.folders[0], key=key)
