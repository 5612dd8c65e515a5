"""A reward model: one number for a sequence of tokens, at its last one."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experience.schema import Int32Array
from score_cluster.batching import micro_batches
from score_cluster.frozen import check_folder, load_frozen
from score_cluster.reward_config import SCALAR_HEAD, Precision

logger = logging.getLogger(__name__)

CARD = "reward_card.json"
"""What its training found out about a reward model."""
_ARCHITECTURE = "ForSequenceClassification"


class RewardModel(Protocol):
    """scores(sequences): [N] the score at the last token of each, order kept; NaN and infinities are passed on."""

    @property
    def vocabulary(self) -> int:
        """Token ids are below it."""
        ...

    @property
    def context_tokens(self) -> int:
        """The longest sequence."""
        ...

    def scores(self, sequences: Sequence[Int32Array]) -> list[float]: ...

    def close(self) -> None: ...


class HfRewardModel:
    """A folder of transformers' `…ForSequenceClassification` with one label and a linear head named `score`."""

    def __init__(self, path: str, *, precision: Precision, micro_batch_tokens: int, threads: int, field: str) -> None:
        """Load and freeze it. ValueError: not such a folder, weights that are missing, no INT8 form.

        threads: intra-op threads, set for the whole process. field: of the recipe, for errors.
        """
        from torch import nn
        from transformers import AutoModelForSequenceClassification

        check_reward_folder(path, field=field)
        self._model: Any = load_frozen(
            AutoModelForSequenceClassification, path, precision=precision, threads=threads, field=field
        )
        head = getattr(self._model, SCALAR_HEAD, None)
        if not isinstance(head, nn.Linear) or head.weight.shape[0] != 1:
            raise ValueError(
                f"{field} = {path}: {type(self._model).__name__} has no linear head named {SCALAR_HEAD} with one output; "
                "give the folder of a decoder that scores its last token"
            )
        self._limit = micro_batch_tokens
        config = self._model.config.get_text_config()
        self.vocabulary = int(config.vocab_size)
        self.context_tokens = int(config.max_position_embeddings)

    def scores(self, sequences: Sequence[Int32Array]) -> list[float]:
        """See `RewardModel`. Sequences are padded and share forward passes of at most `micro_batch_tokens` tokens."""
        out = [0.0] * len(sequences)
        for batch in micro_batches([len(tokens) for tokens in sequences], limit=self._limit):
            for index, value in zip(batch, self._forward([sequences[i] for i in batch]), strict=True):
                out[index] = value
        return out

    def close(self) -> None:
        del self._model

    def _forward(self, batch: Sequence[Int32Array]) -> list[float]:
        """One pass over right-padded sequences, and the head at the last real token of each only.

        No attention mask: under causal attention no real token sees the padding behind it.
        """
        import torch

        last_B = torch.tensor([len(tokens) - 1 for tokens in batch])
        tokens_BT = torch.zeros(len(batch), int(last_B.max()) + 1, dtype=torch.int64)
        for row, tokens in enumerate(batch):
            tokens_BT[row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        with torch.inference_mode():
            device = self._model.device
            hidden_BTE = self._model.base_model(input_ids=tokens_BT.to(device), use_cache=False).last_hidden_state
            hidden_BE = hidden_BTE[torch.arange(len(batch), device=device), last_B.to(device)]
            head = getattr(self._model, SCALAR_HEAD)
            scores_B = torch.nn.functional.linear(hidden_BE.float(), head.weight.float(), _float(head.bias))
            return [float(value) for value in scores_B[:, 0].cpu()]


def check_reward_folder(path: str, *, field: str) -> None:
    """ValueError: not the folder of a reward model."""
    check_folder(path, field=field)
    config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    architectures = config.get("architectures") or ["a model without architectures"]
    labels = config.get("num_labels", len(config.get("id2label") or {0: "", 1: ""}))
    if not architectures[0].endswith(_ARCHITECTURE) or labels != 1:
        raise ValueError(
            f"{field} = {path}: is no reward model ({architectures[0]} with {labels} labels); "
            f"give the folder of a {_ARCHITECTURE} with one label"
        )


def weights_hash(path: str) -> str:
    """SHA-256 over the names and bytes of the configuration and of all safetensors of a folder."""
    digest = hashlib.sha256()
    for file in sorted([Path(path) / "config.json", *Path(path).glob("*.safetensors")]):
        with file.open("rb") as stream:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def card_warnings(path: str, *, field: str) -> list[str]:
    """What the card beside a reward model warns of, a line each; none without a card."""
    file = Path(path) / CARD
    if not file.is_file():
        return []
    try:
        held_out = json.loads(file.read_text(encoding="utf-8"))["held_out"]
        verdict, bias = held_out["verdict"], held_out["length"]["warning"]
        lines = [] if verdict["word"] == "healthy" else [f"its card calls it {verdict['word']}: {verdict['advice']}"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{field} = {path}: its {CARD} cannot be read ({type(error).__name__}: {error}); train it again"]
    return [f"{field} = {path}: {line}" for line in [*lines, *([bias] if bias else [])]]


def _float(bias: Any) -> Any:
    return None if bias is None else bias.float()
