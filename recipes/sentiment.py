"""The demo's task: remarks on films, meals and journeys, and pairs of them that say which is preferred.

    python -m recipes.sentiment prepare runs/demo-data --seed 0

recipes.words and recipes.remarks are the grammar, recipes.gold the preference that labels the pairs and judges the result. Everything is
drawn from the seed: the same bytes every time, on every machine, without network.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from recipes.gold import value
from recipes.remarks import Opening, opening, remark
from recipes.tiny_llama import write_folder
from recipes.words import vocabulary

SFT_REMARKS, PAIRS, TRAIN_PROMPTS, HELD_OUT_PROMPTS = 16384, 8192, 8192, 512
"""Rows of each file."""
FLIPPED_SHARE = 0.1
"""Of the pairs: labelled the wrong way round, as tired annotators do."""
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
CONTEXT_TOKENS = 96
"""A rambling remark and its opening take some 75."""

Row = dict[str, str]

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """The demo's task."""


@app.command()
def prepare(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    seed: Annotated[int, typer.Option(min=0, help="everything is drawn from it")] = 0,
) -> None:
    """Write OUT/model (config and tokenizer, no weights) and OUT/heldout, train, pairs and sft.jsonl."""
    write_model(out / "model")
    for name, rows in data(seed=seed).items():
        write_rows(out / f"{name}.jsonl", rows)
        typer.echo(f"{out / name}.jsonl: {len(rows)} rows")


def data(*, seed: int) -> Mapping[str, list[Row]]:
    """The sets by file name; no opening is in two of them, or twice in one."""
    generator = random.Random(seed)
    held_out, openings = (distinct_openings(generator, reserved=reserved) for reserved in (True, False))
    return {
        "heldout": [prompt_row(drawn) for drawn in islice(held_out, HELD_OUT_PROMPTS)],
        "train": [prompt_row(drawn) for drawn in islice(openings, TRAIN_PROMPTS)],
        "pairs": [pair(generator, drawn) for drawn in islice(openings, PAIRS)],
        "sft": [supervised(generator, drawn) for drawn in islice(openings, SFT_REMARKS)],  # last: then all is there
    }


def distinct_openings(generator: random.Random, *, reserved: bool) -> Iterator[Opening]:
    """In the order drawn, each once; all of them reserved, or none."""
    seen: set[str] = set()
    while True:
        drawn = opening(generator)
        if drawn.reserved == reserved and drawn.text not in seen:
            seen.add(drawn.text)
            yield drawn


def prompt_row(drawn: Opening) -> Row:
    return {"prompt": drawn.text, "category": drawn.subject}


def supervised(generator: random.Random, drawn: Opening) -> Row:
    return {**prompt_row(drawn), "completion": remark(generator, drawn.subject)}


def pair(generator: random.Random, drawn: Opening) -> Row:
    """Two remarks on one opening, the better one by gold `chosen`; in FLIPPED_SHARE of the pairs the worse one."""
    while True:
        first, second = remark(generator, drawn.subject), remark(generator, drawn.subject)
        difference = value(first) - value(second)
        if difference:
            break
    flipped = generator.random() < FLIPPED_SHARE
    chosen, rejected = (first, second) if (difference > 0) != flipped else (second, first)
    return {**prompt_row(drawn), "chosen": chosen, "rejected": rejected}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_model(folder: Path) -> None:
    """A tiny Llama with a tokenizer of whole words."""
    write_folder(folder, word_tokenizer(), context_tokens=CONTEXT_TOKENS)


def word_tokenizer() -> Any:
    """One token a word, words joined by spaces; nothing is added, so that prompt + completion = their tokens joined."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad, bos, eos, unk = SPECIAL
    words = {word: index for index, word in enumerate((*SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        clean_up_tokenization_spaces=False,  # else " ." becomes ".", another word
    )


if __name__ == "__main__":
    app()
