"""What `headrace sft --dry-run` shows: what would be trained, and on one example which of its tokens."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from orchestrator.config import Recipe
from orchestrator.stages.sft_inputs import SftInputs
from train_cluster.supervised.sft_rows import Tokens

OPEN, CLOSE = "⟦", "⟧"
"""Around what is trained."""


def summary(recipe: Recipe, inputs: SftInputs) -> dict[str, Any]:
    """JSON."""
    config = recipe.sft
    assert config is not None
    return {
        "out": recipe.model.path,
        "base": config.base,
        "files": [one.as_dict() for one in inputs.files],
        "examples": len(inputs.trained),
        "held_out": len(inputs.held_out),
        "tokens": sum(len(one.ids) for one in inputs.trained),
        "trained_tokens": sum(int(one.trained.sum()) for one in inputs.trained),
        "longest_tokens": max(len(one.ids) for one in inputs.trained),
        "epochs": config.epochs,
        "steps": inputs.steps,
        "first": spans(inputs.trained[0], inputs.tokenizer),
        "warnings": list(inputs.warnings),
    }


def lines(content: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield f"sft: {content['base']} -> {content['out']}"
    for one in content["files"]:
        left = (
            f" ({one['truncated']} cut short, {one['skipped']} left out)" if one["truncated"] + one["skipped"] else ""
        )
        yield f"{one['path']}: {one['rows']} rows, {one['examples']} examples{left}"
    yield (
        f"trained: {content['examples']} examples, {content['tokens']} tokens, of which {content['trained_tokens']} count; "
        f"the longest has {content['longest_tokens']}"
    )
    yield f"held out: {content['held_out']} examples"
    yield f"{content['steps']} steps in {content['epochs']} epochs"
    yield f"the first example, {OPEN}trained{CLOSE}:"
    yield "".join(f"{OPEN}{one['text']}{CLOSE}" if one["trained"] else one["text"] for one in content["first"])
    yield from (f"warning: {line}" for line in content["warnings"])


def spans(example: Tokens, tokenizer: Any) -> list[dict[str, Any]]:
    """[{text, trained}]: as the model sees it, special tokens included, split where training begins and ends."""
    marked = zip(example.ids.tolist(), example.trained.tolist(), strict=True)
    return [
        {"text": tokenizer.decode([i for i, _ in part], clean_up_tokenization_spaces=False), "trained": trained}
        for trained, part in ((t, list(group)) for t, group in groupby(marked, key=lambda one: one[1]))
    ]
