"""Opens the sources that a recipe names: one function a kind, heavy libraries only where a kind needs them."""

from collections.abc import Sequence

from score_cluster import rewards
from score_cluster.answers import RewardSource
from score_cluster.http_source import HttpSource
from score_cluster.lengths import LengthReward, OverlongReward
from score_cluster.patience import Patience
from score_cluster.reward_config import (
    FunctionRewardConfig,
    HttpRewardConfig,
    LengthRewardConfig,
    ModelRewardConfig,
    OverlongRewardConfig,
    RewardConfig,
)


def open_sources(
    configs: Sequence[RewardConfig], *, model_path: str, threads: int, patience: Patience
) -> tuple[RewardSource, ...]:
    """The sources, in order. ValueError: two of the same name, or what a source refuses.

    model_path: the policy's folder, whose tokens reward models are fed. threads: intra-op threads of models.
    """
    names = [config.name for config in configs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"scoring.rewards: name {doubled[0]!r} is given twice; give every component its own name")
    return tuple(open_source(one, model_path=model_path, threads=threads, patience=patience) for one in configs)


def open_source(config: RewardConfig, *, model_path: str, threads: int, patience: Patience) -> RewardSource:
    """See `open_sources`."""
    match config:
        case FunctionRewardConfig():
            return rewards.FunctionSource(rewards.load(config), patience=patience)
        case LengthRewardConfig():
            return LengthReward(config=config)
        case OverlongRewardConfig():
            return OverlongReward(config=config)
        case HttpRewardConfig():
            return HttpSource(config)
        case ModelRewardConfig():
            from score_cluster.model_source import ModelSource  # loads torch and transformers

            return ModelSource(config, model_path=model_path, threads=threads)
