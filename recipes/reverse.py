"""Reversing a word: a task small enough to learn in a minute on two cores, and verifiable letter by letter.

    python -m recipes.reverse prepare runs/reverse-data               model folder without weights, and the data
    python -m recipes.reverse evaluate FOLDER runs/reverse-data/heldout.jsonl    exact match, sampled at T = 1

Supervised examples are mostly wrong in some letters: they teach the form, and leave the rest to reinforcement.
"""

import json
import random
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.evaluation.statistics import wilson_interval
from recipes.tiny_llama import write_folder

SEED = 20
WORD_LETTERS = 6
SEPARATOR = ">"
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
SFT_WORDS, TRAIN_WORDS, HELD_OUT_WORDS = 24576, 4096, 512
WRONG_SHARE = 0.7
"""Of the supervised answers; right ones alone would leave nothing to reinforce."""
LETTER_NOISE = 0.4
"""Chance of each letter of a wrong answer to be drawn anew."""
CONTEXT_TOKENS = 64

Row = dict[str, str]

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def prepare(out: Annotated[Path, typer.Argument(help="folder to write; the same bytes every time")]) -> None:
    """Write OUT/model (config and tokenizer, no weights), OUT/sft.jsonl, OUT/train.jsonl and OUT/heldout.jsonl."""
    write_model(out / "model")
    for name, rows in data(seed=SEED).items():
        write_rows(out / f"{name}.jsonl", rows)
        typer.echo(f"{out / name}.jsonl: {len(rows)} rows")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="ordinary Hugging Face folder")],
    heldout: Annotated[Path, typer.Argument(help="JSONL with prompt and answer")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object instead of a sentence")] = False,
    seed: Annotated[int, typer.Option(help="of sampling")] = 0,
) -> None:
    """Sample one answer a prompt at temperature 1 and print the share that is right, with its 95 % interval."""
    for path in (folder / "config.json", heldout):
        if not path.is_file():
            typer.echo(
                f"error: {path} does not exist; make it by `prepare`, `headrace sft` or `headrace export`", err=True
            )
            raise typer.Exit(2)
    rows = [json.loads(line) for line in heldout.read_text().splitlines()]
    answers = sample(folder, [row["prompt"] for row in rows], seed=seed)
    right = sum(answer.strip() == row["answer"] for answer, row in zip(answers, rows, strict=True))
    low, high = wilson_interval(right, len(rows))
    result = {"exact_match": right / len(rows), "low": low, "high": high, "right": right, "words": len(rows)}
    sentence = f"exact match {right / len(rows):.1%} of {len(rows)} words (95 % interval {low:.1%} to {high:.1%})"
    typer.echo(json.dumps(result) if as_json else sentence)


def data(*, seed: int) -> Mapping[str, list[Row]]:
    """The three sets by file name; no word is in two of them, or twice in one."""
    generator = random.Random(seed)
    words = distinct_words(generator, SFT_WORDS + TRAIN_WORDS + HELD_OUT_WORDS)
    heldout, train, sft = (
        words[:HELD_OUT_WORDS],
        words[HELD_OUT_WORDS : HELD_OUT_WORDS + TRAIN_WORDS],
        words[HELD_OUT_WORDS + TRAIN_WORDS :],
    )
    return {
        "heldout": [{"prompt": word + SEPARATOR, "answer": word[::-1]} for word in heldout],
        "train": [{"prompt": word + SEPARATOR, "answer": word[::-1]} for word in train],
        "sft": [{"prompt": word + SEPARATOR, "completion": noisy(generator, word[::-1])} for word in sft],
    }


def distinct_words(generator: random.Random, count: int) -> list[str]:
    """In the order drawn, each once."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn["".join(generator.choices(string.ascii_lowercase, k=WORD_LETTERS))] = None
    return list(drawn)


def noisy(generator: random.Random, answer: str) -> str:
    """The answer, or in WRONG_SHARE of the cases one with at least one other letter."""
    if generator.random() >= WRONG_SHARE:
        return answer
    while True:
        letters = [
            generator.choice(string.ascii_lowercase) if generator.random() < LETTER_NOISE else letter
            for letter in answer
        ]
        if "".join(letters) != answer:
            return "".join(letters)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_model(folder: Path) -> None:
    """A tiny Llama with a tokenizer of single characters."""
    write_folder(folder, character_tokenizer(), context_tokens=CONTEXT_TOKENS)


def character_tokenizer() -> Any:
    """One token a character; nothing is added around a text, so that prompt + completion = their tokens joined."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad, bos, eos, unk = SPECIAL
    vocabulary = [*SPECIAL, SEPARATOR, *string.ascii_lowercase]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk
    )


def sample(folder: Path, prompts: Sequence[str], *, seed: int, batch_prompts: int = 128) -> list[str]:
    """One answer a prompt, sampled by transformers from the whole distribution at temperature 1."""
    from orchestrator.logs import hush_libraries

    hush_libraries()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers: list[str] = []
    for batch in _batches(prompts, batch_prompts):
        inputs = tokenizer(list(batch), return_tensors="pt", padding=True)
        length = inputs["input_ids"].shape[1]
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        output = model.generate(**inputs, **options, max_new_tokens=WORD_LETTERS + 2)
        answers += tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
    return answers


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


if __name__ == "__main__":
    app()
