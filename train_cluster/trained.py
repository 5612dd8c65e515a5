"""The models that a rank of a run trains: the policy, with PPO a critic beside it, and the learner on both."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from train_cluster import distributed
from train_cluster.checkpoint import CRITIC, POLICY
from train_cluster.config import PpoConfig, TrainingConfig
from train_cluster.learner import Learner
from train_cluster.model import PackedModel, load_policy, loading_dtype, tied_aliases
from train_cluster.scalar import ScalarModel, has_scalar_head, load_scalar
from train_cluster.zero import ZeroEngine


class TrainedModels:
    """Every engine is a ZeRO-3 one over all ranks; `engines` by their names in a cut."""

    def __init__(
        self,
        *,
        model_path: Path,
        critic_path: Path | None,
        random_init: bool,
        seed: int,
        config: TrainingConfig,
        rank: int,
        world_size: int,
        updated: Callable[[], None],
    ) -> None:
        """(collective) `random_init`: model_path holds no weights, for the policy or the critic. `updated`: after each update of either model.

        ValueError: a folder that cannot be trained.
        """
        policy = load_policy(
            model_path,
            dtype=loading_dtype(model_path, dtype=config.dtype, random_init=random_init),
            attention_dropout=config.attention_dropout,
            random_init=random_init,
            seed=seed,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        modules: dict[str, PackedModel] = {POLICY: policy}
        configs = {POLICY: config}
        if isinstance(config.algorithm, PpoConfig):
            path = critic_path or model_path
            modules[CRITIC] = _load_critic(
                path, random_init=random_init and path == model_path, seed=seed, config=config
            )
            rate = {"learning_rate": config.algorithm.critic.learning_rate}
            configs[CRITIC] = config.model_copy(update={"optimizer": config.optimizer.model_copy(update=rate)})
        self.aliases = tied_aliases(policy)
        distributed.meet()  # each rank has read the folders in its own time
        self.engines = {
            name: ZeroEngine(module, config=configs[name], rank=rank, world_size=world_size, updated=updated)
            for name, module in modules.items()
        }
        self.policy = self.engines[POLICY]
        self.learner = Learner(self.policy, config=config, critic=self.engines.get(CRITIC))

    @property
    def parameters(self) -> dict[str, int]:
        """By model."""
        return {
            name: sum(torch.Size(spec.shape).numel() for spec in engine.specs().values())
            for name, engine in self.engines.items()
        }

    def close(self) -> None:
        with ExitStack() as stack:
            for engine in self.engines.values():
                stack.callback(engine.close)


def _load_critic(path: Path, *, random_init: bool, seed: int, config: TrainingConfig) -> ScalarModel:
    return load_scalar(
        path,
        dtype=loading_dtype(path, dtype=config.dtype, random_init=random_init),
        attention_dropout=config.attention_dropout,
        seed=seed,
        gradient_checkpointing=config.gradient_checkpointing,
        head="from_folder" if has_scalar_head(path) else "zeros",
        random_init=random_init,
    )
