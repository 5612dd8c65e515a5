"""A tokenizer of letters, and pairs of words of which one is preferred by a rule, for the tests of this folder."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from train_records import VOCABULARY, save_tiny_model
from transformers import PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrst"
EOS = len(LETTERS)
GOOD, BAD = "a", "b"


def save_letters(folder: Path) -> Path:
    """config.json of a tiny model and a tokenizer with one token a letter; no weights."""
    save_tiny_model(folder)
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)} | {"<eos>": EOS, "<unk>": EOS + 1}
    assert len(vocabulary) <= VOCABULARY
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}t{% endif %}",
    ).save_pretrained(folder)
    return folder


def word(source: random.Random, length: int) -> str:
    return "".join(source.choices(LETTERS[2:], k=length))


def clean_pairs(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """The better answer has an `a` in it, the other a `b` at the same place."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        answer, place = word(source, source.randint(2, 6)), source.randint(0, 2)
        rows.append(
            {
                "prompt": word(source, 4),
                "chosen": answer[:place] + GOOD + answer[place:],
                "rejected": answer[:place] + BAD + answer[place:],
                "category": "early" if place == 0 else "late",
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path
