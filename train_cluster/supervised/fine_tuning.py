"""Supervised fine-tuning as ranks run it: from a model folder and examples to a model folder."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from train_cluster import distributed
from train_cluster.config import TrainingConfig
from train_cluster.model import load_policy, save_folder
from train_cluster.publication import whole_tensors
from train_cluster.supervised import loop, sft, sft_data
from train_cluster.supervised.cuts import StageCuts
from train_cluster.supervised.journal import Journal
from train_cluster.supervised.sft_config import SftConfig
from train_cluster.zero import ZeroEngine

JOURNAL = "sft.jsonl"
"""In the stage's folder: what rank 0 says of each step."""


def run(
    config: SftConfig,
    out: Path,
    *,
    folder: Path,
    identity: str,
    training: TrainingConfig,
    rank: int,
    world_size: int,
    seed: int,
    progress: loop.Progress,
    stopping: Callable[[], bool],
    reached: Callable[[str, int], None] = lambda point, step: None,
) -> dict[str, Any]:
    """(collective) Train on the examples in `folder`, from its newest cut; once all steps are done, rank 0 writes `out`,
    or writes it anew.

    `identity`: see StageCuts. `stopping`: ends early, with a cut. ValueError: no examples there, or no such model.
    """
    module = load_policy(
        config.base,
        random_init=config.random_init,
        seed=seed,
        attention_dropout=training.attention_dropout,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    trained, held_out = sft_data.load(folder / sft_data.FILE)
    optimizer = training.optimizer.model_copy(update={"weight_decay": config.weight_decay})
    distributed.meet()  # each rank has read model and examples in its own time
    engine = ZeroEngine(
        module, config=training.model_copy(update={"optimizer": optimizer}), rank=rank, world_size=world_size
    )
    with closing(engine), closing(StageCuts(engine, folder, identity=identity, reached=reached)) as cuts:
        outcome = loop.train(
            engine,
            sft.CompletionLoss(),
            trained,
            held_out=held_out,
            config=config,
            batch_units=config.batch_examples,
            micro_batch_tokens=training.micro_batch_tokens,
            seed=seed,
            cuts=cuts,
            progress=Journal(folder / JOURNAL, also=progress).add if rank == 0 else progress,
            stopping=stopping,
        )
        if outcome.finished:
            tensors = dict(whole_tensors(engine))
            if rank == 0:
                shutil.rmtree(out, ignore_errors=True)  # of ranks that died after they had written it
                save_folder(out, config.base, tensors)
    return outcome.as_dict()
