"""What `headrace data` shows of each data set."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.prompts import PromptSource

_SHOWN_CHARACTERS = 2000
"""Of the first prompt, in text; --json has it whole."""


def previews(source: PromptSource) -> list[dict[str, Any]]:
    """By data set: its survey, and `first_prompt` as the model sees it."""
    return [one.as_dict() | {"first_prompt": source.first(position)} for position, one in enumerate(source.surveys)]


def lines(previews: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in previews:
        files = one["files"]
        named = files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} to {files[-1]}"
        yield f"{one['name']}  {one['share']:.1%} of the prompts, from {one['path']} ({one['kind']}: {named})"
        yield f"  rows     {one['rows']:,}, and {one['bad_rows']:,} bad ones left out"
        yield from (f"           {line}" for line in one["first_bad"])
        if one["left_out"]:
            yield "  not JSON " + ", ".join(f"{column} ({kind})" for column, kind in one["left_out"].items())
        yield (
            f"  tokens   p50 {one['tokens_p50']}, p99 {one['tokens_p99']}, longest {one['tokens_longest']}; {one['unfit']:,} "
            f"of the {one['checked']:,} prompts checked cannot be asked"
        )
        prompt = one["first_prompt"]
        cut = "" if len(prompt) <= _SHOWN_CHARACTERS else f" … ({len(prompt):,} characters)"
        yield "  first    " + prompt[:_SHOWN_CHARACTERS].replace("\n", "\n           ") + cut
