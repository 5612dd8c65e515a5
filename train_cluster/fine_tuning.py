"""Supervised fine-tuning as ranks run it: from a model folder to a model folder."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from train_cluster import distributed, sft, supervised
from train_cluster.config import TrainingConfig
from train_cluster.model import load_policy, save_folder
from train_cluster.publication import whole_tensors
from train_cluster.sft_config import SftConfig
from train_cluster.stage_cuts import StageCuts
from train_cluster.zero import ZeroEngine


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
    chat_template: bool,
    system_prompt: str | None,
    progress: supervised.Progress,
    stopping: Callable[[], bool],
) -> dict[str, Any]:
    """(collective) Train on the examples of `config.path`, from the newest cut in `folder`; rank 0 writes `out`.

    `identity`: see StageCuts. ValueError names a bad row by its line.
    """
    from transformers import AutoTokenizer  # here, since ranks of a run never need it

    module = load_policy(
        config.base,
        random_init=config.random_init,
        seed=seed,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    examples = sft.read_examples(
        config.path,
        AutoTokenizer.from_pretrained(config.base, local_files_only=True),
        prompt_column=config.prompt_column,
        completion_column=config.completion_column,
        chat_template=chat_template,
        system_prompt=system_prompt,
        max_tokens=getattr(module.causal.config, "max_position_embeddings", None),
    )
    optimizer = training.optimizer.model_copy(update={"weight_decay": config.weight_decay})
    distributed.meet()  # each rank has read model and examples in its own time
    engine = ZeroEngine(
        module, config=training.model_copy(update={"optimizer": optimizer}), rank=rank, world_size=world_size
    )
    with closing(engine), closing(StageCuts(engine, folder, identity=identity)) as cuts:
        outcome = supervised.train(
            engine,
            sft.CompletionLoss(),
            examples,
            config=config,
            batch_units=config.batch_examples,
            micro_batch_tokens=training.micro_batch_tokens,
            seed=seed,
            cuts=cuts,
            progress=progress,
            stopping=stopping,
        )
        if outcome.finished:
            tensors = dict(whole_tensors(engine))
            if rank == 0:
                save_folder(out, config.base, tensors)
    return {
        "finished": outcome.finished,
        "examples": len(examples),
        "steps": outcome.step,
        "total": outcome.total,
        "loss": outcome.loss,
    }
