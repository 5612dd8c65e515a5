"""`headrace reward score`: any texts rated by a trained reward model, or by an ensemble, as the scorers rate them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experience.schema import Int32Array
from orchestrator import logs
from orchestrator.console import Console
from orchestrator.errors import RunFailed
from score_cluster.reward_config import Precision
from train_cluster.reward.pair_data import context_tokens
from train_cluster.reward.pair_text import Template
from train_cluster.reward.pairs import BadPairs
from train_cluster.reward.scoring import Rows, read_rows, results, summary

CARD = "reward_card.json"
MICRO_BATCH_TOKENS = 8192
"""Padded tokens of a forward pass: bounds memory; smaller ones are no faster."""
SCORED_AT_ONCE = 256
"""Sequences between two words of progress; they are sorted by length before, so that little of them is padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """`lines`: one JSON object a row; `summary`: of all."""

    lines: list[dict[str, Any]]
    summary: dict[str, Any]


def score(folder: Path, file: Path, *, precision: Precision, chat_template: bool | None, console: Console) -> Scored:
    """ValueError: no such folder or file, rows that are bad. RunFailed: a score that is not finite.

    chat_template: None = as the model's card says it was trained; without a card, prompts are taken as they stand.
    """
    members = member_folders(folder)
    rows = _read(folder, members, file, chat_template)
    logs.hush_libraries()
    found = np.stack([_scores(member, rows, precision, console) for member in members])
    try:
        lines = list(results(rows, found))
    except FloatingPointError as error:
        raise RunFailed(f"FOLDER = {folder}: {error}; the model is damaged, train it again") from error
    return Scored(lines=lines, summary=summary(rows, found) | {"precision": precision})


def member_folders(folder: Path) -> list[Path]:
    """The folder of the one model, or those of an ensemble, 0, 1 and so on. ValueError: neither."""
    if (folder / "config.json").is_file():
        return [folder]
    members = sorted((path for path in _entries(folder) if path.name.isdecimal()), key=lambda path: int(path.name))
    if not members:
        raise ValueError(
            f"FOLDER = {folder}: holds no reward model; remedy: name the folder that `headrace reward train` wrote"
        )
    return members


def text(found: Scored) -> str:
    """The summary, for people."""
    one = found.summary
    of = "" if one["models"] == 1 else f", the mean of {one['models']} models"
    parts = [f"{one['rows']} rows ({one['kind']}): mean {one['mean']:.4f}, standard deviation {one['std']:.4f}{of}"]
    if "accuracy" in one:
        low, high = one["accuracy_95"]
        parts.append(f"accuracy {one['accuracy']:.1%} ({low:.1%} to {high:.1%})")
    if "agreement" in one:
        parts.append(f"members agree on {one['agreement']:.1%}")
    if "mean_std" in one:
        parts.append(f"members differ by {one['mean_std']:.4f} (mean standard deviation)")
    return "; ".join(parts)


def _entries(folder: Path) -> Sequence[Path]:
    if not os.path.isdir(folder):  # Path.is_dir raises where a name is too long
        raise ValueError(f"FOLDER = {folder}: there is no such folder; remedy: name one of a reward model")
    return [path for path in folder.iterdir() if (path / "config.json").is_file()]


def _read(folder: Path, members: Sequence[Path], file: Path, chat_template: bool | None) -> Rows:
    from score_cluster.frozen import load_tokenizer

    prompt = _prompt_of_card(folder)
    tokenizer = load_tokenizer(str(members[0]), field="FOLDER")
    template = Template(
        tokenizer=tokenizer,
        chat_template=prompt["chat_template"] if chat_template is None else chat_template,
        system_prompt=prompt["system_prompt"],
    )
    if template.chat_template and tokenizer.chat_template is None:
        raise ValueError(f"FOLDER = {members[0]}: its tokenizer has no chat template; remedy: --no-chat-template")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"FOLDER = {members[0]}: its tokenizer has no eos token; remedy: name one in its files")
    try:
        return read_rows(file, template, max_tokens=context_tokens(members[0]))
    except BadPairs as error:
        raise ValueError("\n".join(f"FILE = {file}: {line}" for line in error.lines)) from error
    except OSError as error:
        raise ValueError(f"FILE = {file}: cannot be read ({error.strerror}); remedy: name a JSONL file") from error


def _prompt_of_card(folder: Path) -> Mapping[str, Any]:
    """How prompts were rendered in training."""
    card = folder / CARD
    if not card.is_file():
        return {"chat_template": False, "system_prompt": None}
    try:
        prompt = json.loads(card.read_text(encoding="utf-8"))["prompt"]
        return {"chat_template": bool(prompt["chat_template"]), "system_prompt": prompt["system_prompt"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"FOLDER = {folder}: its {CARD} cannot be read ({error}); remedy: restore it from a copy, or delete it"
        ) from error


def _scores(member: Path, rows: Rows, precision: Precision, console: Console) -> npt.NDArray[np.float64]:
    """[N], in the order of the rows."""
    from score_cluster.reward_model import HfRewardModel  # torch and transformers, once there is something to score

    model = HfRewardModel(
        str(member),
        precision=precision,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        threads=len(os.sched_getaffinity(0)),
        field="FOLDER",
    )
    largest = max((int(tokens.max()) for tokens in rows.sequences), default=0)
    if largest >= model.vocabulary:
        raise ValueError(
            f"FOLDER = {member}: its tokenizer gives token {largest}, and its model has {model.vocabulary}; remedy: take both "
            "from the same place"
        )
    order = sorted(range(len(rows.sequences)), key=lambda i: len(rows.sequences[i]))
    found = np.zeros(len(order))
    for start in range(0, len(order), SCORED_AT_ONCE):
        chosen = order[start : start + SCORED_AT_ONCE]
        sequences: list[Int32Array] = [rows.sequences[i] for i in chosen]
        found[chosen] = model.scores(sequences)
        console.progress(f"scored by {member.name}", completed=start + len(chosen), total=len(order), note="sequences")
    model.close()
    return found
