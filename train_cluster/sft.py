"""Supervised fine-tuning on (prompt, completion) rows, on the engine and the packing of the learner.

Only completion tokens count. A killed run starts over: it takes minutes, and its result is written at the end alone.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train_cluster import packing, rows
from train_cluster.config import SftConfig
from train_cluster.engine import TrainEngine
from train_cluster.learner import seed_generators
from train_cluster.losses import token_mean
from train_cluster.schedule import warmed_up

Progress = Callable[[int, int, float], None]
"""(step from 1, total steps, loss in nats per completion token)"""


def read_examples(
    path: str | Path,
    tokenizer: Any,
    *,
    prompt_column: str,
    completion_column: str,
    chat_template: bool = False,
    system_prompt: str | None = None,
    max_tokens: int | None = None,
) -> list[rows.Sequence]:
    """The rows of a JSONL file as sequences whose completion, ended by eos, is trained.

    Prompt and completion are tokenised apart and joined, as generation joins them. With `chat_template` the prompt is
    one user turn in the model's own template, after the system prompt if there is one; else it is taken as it stands.
    Blank lines are passed over. ValueError names file and line.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{path}: the tokenizer has no eos token, so no completion could end")
    if chat_template and tokenizer.chat_template is None:
        raise ValueError(f"{path}: the model's tokenizer has no chat template")
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    examples = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            prompt, completion = _texts(line, prompt_column, completion_column)
            if chat_template:
                turns = [*system, {"role": "user", "content": prompt}]
                prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            # A template writes its own special tokens: the tokenizer must not add them a second time.
            prompt_ids = tokenizer(prompt, add_special_tokens=not chat_template)["input_ids"]
            example = _example(prompt_ids, completion, tokenizer)
            _check_length(example, max_tokens)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        examples.append(example)
    if not examples:
        raise ValueError(f"{path}: no rows; give at least one JSON object a line")
    return examples


def train(
    engine: TrainEngine,
    examples: Sequence[rows.Sequence],
    *,
    config: SftConfig,
    micro_batch_tokens: int,
    seed: int,
    progress: Progress = lambda step, total, loss: None,
) -> list[float]:
    """(collective) All epochs; returns the loss of each step, nats per completion token.

    FloatingPointError: a loss or gradient that is not finite.
    """
    plan = list(_batches(len(examples), config=config, seed=seed))
    lengths = [example.fed for example in examples]
    device = next(engine.module.parameters()).device
    engine.module.train()
    losses = []
    for step, members in enumerate(plan, start=1):
        seed_generators(_seed(seed, step), rank=engine.rank)
        packed = packing.plan(members, lengths, world_size=engine.world_size, capacity=micro_batch_tokens)
        trained = sum(examples[i].trained for i in members)
        local = torch.zeros(1, dtype=torch.float64)
        for piece in packed.rows[engine.rank]:
            row = rows.build_row(piece, examples, device=device)
            logprobs_N, _ = engine.forward(**row.inputs())
            loss = token_mean(-logprobs_N, row.response_mask, num_trained_tokens=trained)
            engine.backward(loss)
            local += loss.detach().cpu()
        losses.append(float(engine.sum(local)))
        rate = warmed_up(step, peak=config.learning_rate, warmup_steps=config.warmup_steps)
        norm = engine.step(learning_rate=rate)
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            raise FloatingPointError(f"fine-tuning step {step}: loss {losses[-1]}, gradient norm {norm}")
        progress(step, len(plan), losses[-1])
    return losses


def _batches(count: int, *, config: SftConfig, seed: int) -> Iterable[list[int]]:
    """Examples of each step: every epoch a shuffle of its own, a function of (seed, epoch)."""
    for epoch in range(config.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(count).tolist()
        for start in range(0, count, config.batch_examples):
            yield order[start : start + config.batch_examples]


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


def _texts(line: bytes, prompt_column: str, completion_column: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    texts = []
    for column in (prompt_column, completion_column):
        text = row.get(column)
        if not isinstance(text, str) or not text:
            raise ValueError(f"column {column!r} must be a text that is not empty; the row has {sorted(row)}")
        texts.append(text)
    return texts[0], texts[1]


def _example(prompt_ids: Sequence[int], completion: str, tokenizer: Any) -> rows.Sequence:
    completion_ids = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    if not prompt_ids:
        raise ValueError("the prompt has no tokens")
    return rows.Sequence(
        prompt=np.array(prompt_ids, dtype=np.int32),
        response=np.array(completion_ids, dtype=np.int32),
        response_mask=np.ones(len(completion_ids), dtype=np.bool_),
        temperature=1.0,
    )


def _check_length(example: rows.Sequence, max_tokens: int | None) -> None:
    length = len(example.prompt) + len(example.response)
    if max_tokens is not None and length > max_tokens:
        raise ValueError(f"{length} tokens are more than the model's context of {max_tokens}; shorten or drop the row")
