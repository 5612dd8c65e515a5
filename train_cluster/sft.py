"""Supervised fine-tuning on (prompt, completion) rows, on the engine and the packing of the learner.

Only completion tokens count. A killed run starts over: it takes minutes, and its result is written at the end alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train_cluster import rows
from train_cluster.engine import TrainEngine
from train_cluster.supervised import Sums


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


class CompletionLoss:
    """An Objective over examples: the mean negative log-likelihood of their trained tokens, nats per token.

    loss = −1/N · Σ log π(token),   N = trained tokens of the batch on all ranks
    """

    measures: tuple[str, ...] = ()

    def tokens(self, unit: rows.Sequence) -> int:
        return unit.fed

    def weight(self, unit: rows.Sequence) -> int:
        return unit.trained

    def sums(self, engine: TrainEngine, units: Sequence[rows.Sequence]) -> Sums:
        device = next(engine.module.parameters()).device
        row = rows.build_row(tuple(range(len(units))), units, device=device)
        logprobs_N, _ = engine.forward(**row.inputs())
        return Sums(loss=torch.where(row.response_mask, -logprobs_N, 0.0).sum())


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
