"""Supervised fine-tuning as ranks run it: from a model folder to a model folder."""

from pathlib import Path
from typing import Any

from train_cluster import distributed, sft
from train_cluster.config import SftConfig, TrainingConfig
from train_cluster.model import load_policy, save_folder
from train_cluster.publication import whole_tensors
from train_cluster.zero import ZeroEngine


def run(
    config: SftConfig,
    out: Path,
    *,
    training: TrainingConfig,
    rank: int,
    world_size: int,
    seed: int,
    chat_template: bool,
    system_prompt: str | None,
    progress: sft.Progress,
) -> dict[str, Any]:
    """(collective) Train on the examples of `config.path`; rank 0 writes `out`. ValueError names a bad row by its line."""
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
    losses = sft.train(
        engine,
        examples,
        config=config,
        micro_batch_tokens=training.micro_batch_tokens,
        seed=seed,
        progress=progress,
    )
    tensors = dict(whole_tensors(engine))
    if rank == 0:
        save_folder(out, config.base, tensors)
    engine.close()
    return {"out": str(out), "examples": len(examples), "steps": len(losses), "loss": losses[-1]}
