"""What a rank does besides a run: it joins the others, and goes through stages of supervised training."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from train_cluster import distributed
from train_cluster.config import TrainingConfig
from train_cluster.reward import training
from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.supervised import fine_tuning
from train_cluster.supervised.loop import StageReport
from train_cluster.supervised.sft_config import SftConfig


class StageRank:
    """Stages are collective operations: called on all ranks alike, each with a model of its own."""

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        master_addr: str,
        master_port: int,
        interface: str,
        config: TrainingConfig,
        seed: int,
        reached: Callable[[str, int], None],
    ) -> None:
        self._rank, self._world_size = rank, world_size
        self._master_addr, self._master_port, self._interface = master_addr, master_port, interface
        self._config, self._seed = config, seed
        self._reached = reached
        self._cancelled = threading.Event()
        self._doing = "starting"
        self._stage: Mapping[str, Any] = {}
        """How far the stage in hand is."""

    def cancel(self) -> None:
        """End what waits; a stage stops after its step, with a checkpoint."""
        self._cancelled.set()

    def sft(
        self,
        config: SftConfig | Mapping[str, Any],
        out: str,
        folder: str,
        identity: str,
    ) -> dict[str, Any]:
        """(collective) Fine-tune `config.base` and write the result as a Hugging Face folder; once the ranks have joined.

        `folder` holds the examples (sft_data) and what there is of the same `identity`, with which it goes on; `cancel` has
        it stop with a checkpoint there.
        """
        self._doing = "sft"
        return fine_tuning.run(
            SftConfig.model_validate(config),
            Path(out),
            folder=Path(folder),
            identity=identity,
            training=self._config,
            rank=self._rank,
            world_size=self._world_size,
            seed=self._seed,
            progress=self._progress,
            stopping=self._cancelled.is_set,
            reached=self._reached,
        )

    def reward(
        self,
        config: RewardTrainingConfig | Mapping[str, Any],
        draft: str,
        folder: str,
        identity: str,
        chat_template: bool = False,
        system_prompt: str | None = None,
    ) -> dict[str, Any]:
        """(collective) Train the reward model, or the members of an ensemble, and write `draft`; after
        `setup(fine_tune=True)`. Goes on from what `folder` holds of the same `identity`; `cancel` has it stop.
        """
        self._doing = "reward"
        job = training.Job(
            config=RewardTrainingConfig.model_validate(config),
            training=self._config,
            seed=self._seed,
            chat_template=chat_template,
            system_prompt=system_prompt,
            identity=identity,
            folder=Path(folder),
            draft=Path(draft),
        )
        return training.run(
            job,
            rank=self._rank,
            world_size=self._world_size,
            progress=self._reward_progress,
            stopping=self._cancelled.is_set,
            reached=self._reached,
        )

    def _join(self) -> None:
        """(collective) Meet the other ranks."""
        torch.set_num_threads(self._config.threads)
        distributed.join(
            rank=self._rank,
            world_size=self._world_size,
            master_addr=self._master_addr,
            master_port=self._master_port,
            interface=self._interface,
            timeout_s=self._config.collective_timeout_s,
        )

    def _progress(self, report: StageReport) -> None:
        self._stage = report.as_dict()
        self._reached("stage.step", report.step)

    def _reward_progress(self, entry: Mapping[str, Any]) -> None:
        self._stage = entry
