"""Writes what a trained reward model leaves: an ordinary model folder, the scores it was judged by, its card and page."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train_cluster.publication import tokenizer_hash
from train_cluster.reward import figures, page
from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.reward.figures import HeldOut
from train_cluster.reward.pairs import Pair
from train_cluster.scalar import save_scalar_folder

CARD, PAGE, SCORES = "reward_card.json", "reward_card.html", "held_out.jsonl"
SCHEMA = 1
"""Of the card."""
MAX_CURVE = 500
"""Points of the curve in a card; of more, one in so many is kept, beside those where held-out pairs were looked at."""
_HASHED_BYTES = 1024**2


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberFacts:
    """What a card says of how a model was made."""

    config: RewardTrainingConfig
    member: int
    steps: int
    seed: int
    length_slope: float
    """Logit a token that lengths alone told of the preferences; 0 where it was not asked for."""
    identity: str
    chat_template: bool
    system_prompt: str | None
    data: Mapping[str, Any]


def write_member(
    folder: Path,
    facts: MemberFacts,
    *,
    tensors: Mapping[str, torch.Tensor],
    held_out: HeldOut,
    pairs: Sequence[Pair],
    curve: Sequence[Mapping[str, Any]],
) -> None:
    """The folder of one model; it appears whole. `pairs`: those of `held_out`, in its order."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a life that was killed while it wrote
    assert facts.config.base is not None
    save_scalar_folder(draft, facts.config.base, tensors)
    _write_scores(draft / SCORES, held_out, pairs)
    settings = facts.config.model_dump(mode="json", exclude={"base", "path", "out", "held_out_path"})
    card = {
        "schema": SCHEMA,
        "kind": "reward model",
        "name": Path(facts.config.out).name + (f"/{facts.member}" if facts.config.members > 1 else ""),
        "data": facts.data,
        "prompt": {"chat_template": facts.chat_template, "system_prompt": facts.system_prompt},
        "training": {
            "base": facts.config.base,
            "steps": facts.steps,
            "seed": facts.seed,
            "length_slope": facts.length_slope,
            "config": settings,
        },
        "held_out": figures.quality(held_out),
        "curve": _thinned(curve),
        "hashes": {
            "weights_sha256": _file_hash(draft / "model.safetensors"),
            "config_sha256": facts.identity,
            "tokenizer_sha256": tokenizer_hash(draft),
        },
    }
    _write_card(draft, card, held_out)
    draft.rename(folder)


def write_ensemble(folder: Path, members: Sequence[Path]) -> None:
    """The card of all members together, judged by the mean of their scores."""
    cards = [json.loads((member / CARD).read_text()) for member in members]
    scores = [read_scores(member) for member in members]
    mean = figures.mean_of(scores)
    weights = [card["hashes"]["weights_sha256"] for card in cards]
    first = cards[0]
    card = {
        **first,
        "kind": "reward model ensemble",
        "name": first["name"].rpartition("/")[0],
        "members": [
            {
                "path": member.name,
                "weights_sha256": one["hashes"]["weights_sha256"],
                "accuracy": one["held_out"]["accuracy"],
                "prompts": one["data"]["member_prompts"],
                "pairs": one["data"]["member_pairs"],
            }
            for member, one in zip(members, cards, strict=True)
        ],
        "held_out": figures.quality(mean),
        "agreement": figures.agreement(np.stack([one.chosen - one.rejected for one in scores])),
        "curve": [],
        "hashes": first["hashes"] | {"weights_sha256": hashlib.sha256(" ".join(weights).encode()).hexdigest()},
    }
    _write_card(folder, card, mean)


def read_scores(folder: Path) -> HeldOut:
    """The scores that a member was judged by."""
    rows = [json.loads(line) for line in (folder / SCORES).read_text().splitlines()]
    columns = ("chosen", "rejected", "chosen_tokens", "rejected_tokens")
    values = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in columns}
    return HeldOut(**values, categories=tuple(row["category"] for row in rows))


def _write_scores(path: Path, held_out: HeldOut, pairs: Sequence[Pair]) -> None:
    columns = (held_out.chosen, held_out.rejected, held_out.chosen_tokens, held_out.rejected_tokens)
    with path.open("w") as stream:
        for pair, chosen, rejected, chosen_tokens, rejected_tokens in zip(pairs, *columns, strict=True):
            row = {"line": pair.line, "chosen": chosen, "rejected": rejected}
            row |= {"chosen_tokens": int(chosen_tokens), "rejected_tokens": int(rejected_tokens)}
            stream.write(json.dumps(row | {"category": pair.category}) + "\n")


def _write_card(folder: Path, card: Mapping[str, Any], held_out: HeldOut) -> None:
    """The card last: a folder that has one is whole."""
    (folder / PAGE).write_text(page.page(card, held_out), encoding="utf-8")
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _thinned(curve: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    every = -(-len(curve) // MAX_CURVE)
    return [one for i, one in enumerate(curve) if not i % every or i == len(curve) - 1 or "held_out_loss" in one]


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_HASHED_BYTES):
            digest.update(piece)
    return digest.hexdigest()
