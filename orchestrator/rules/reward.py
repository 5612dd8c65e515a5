"""Rules about the training of reward models; see orchestrator.rules.every."""

from collections.abc import Callable, Iterator

from orchestrator.sections import ModelConfig
from train_cluster.reward.config import RewardTrainingConfig


def _it_has_its_own_folder(model: ModelConfig, reward: RewardTrainingConfig | None) -> Iterator[str]:
    if reward is not None and reward.out in (model.path, reward.base):
        yield (
            f"reward.out = {reward.out}: is the folder of the model that it starts from, or that is reinforced; "
            "set reward.out to a folder of its own"
        )


def _its_base_has_weights(model: ModelConfig, reward: RewardTrainingConfig | None) -> Iterator[str]:
    if reward is not None and reward.random_init and reward.base is None and not model.random_init:
        yield (
            "reward.random_init = True: the base is model.path, whose weights would be thrown away; "
            "set reward.random_init=false, or reward.base to a folder that needs no weights"
        )


REWARD_RULES: tuple[Callable[..., Iterator[str]], ...] = (_it_has_its_own_folder, _its_base_has_weights)
