"""All that a reward model is trained on and judged by, read from its files."""

import json
from dataclasses import dataclass
from pathlib import Path

from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.reward.pair_split import Split, split_against, split_pairs
from train_cluster.reward.pair_text import Template
from train_cluster.reward.pairs import BadPairs, PairFile, read_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The same on every rank."""

    files: tuple[PairFile, ...]
    """Of `path` and, where it is given, of `held_out_path`."""
    split: Split


def read_data(config: RewardTrainingConfig, template: Template, *, max_tokens: int | None, seed: int) -> Data:
    """BadPairs: what is wrong with a file, each line begun by the key that names it; ValueError: too few prompts."""
    file = _read("path", config.path, template, config, max_tokens)
    if config.held_out_path is None:
        return Data(files=(file,), split=split_pairs(file.pairs, share=config.held_out_share, seed=seed))
    # Agreement is asked for of the pairs to train on: those that judge may have been rated by one person each.
    relaxed = config.model_copy(update={"min_agreement": None})
    judged = _read("held_out_path", config.held_out_path, template, relaxed, max_tokens)
    return Data(files=(file, judged), split=split_against(file.pairs, judged.pairs))


def context_tokens(folder: str | Path) -> int | None:
    """Of a model folder, by its config.json, as far as it says."""
    limit = json.loads((Path(folder) / "config.json").read_text()).get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def _read(key: str, path: str, template: Template, config: RewardTrainingConfig, max_tokens: int | None) -> PairFile:
    try:
        return read_pairs(path, template, config=config, max_tokens=max_tokens)
    except BadPairs as error:
        raise BadPairs([f"reward.{key} = {path}: {line}" for line in error.lines]) from error
    except OSError as error:
        raise BadPairs(
            [f"reward.{key} = {path}: cannot be read ({error.strerror}); name a JSONL file of pairs"]
        ) from error
