"""The rows of fine-tuning, read from any kind of data set that prompts come from, as examples of tokens."""

from dataclasses import dataclass, field
from typing import Any

from orchestrator.config import Recipe
from orchestrator.data.config import SourceConfig
from orchestrator.data.rows import refuse
from orchestrator.data.source import Source, open_one
from orchestrator.modelfolder import ModelFolder
from orchestrator.recipe import RecipeError
from train_cluster.supervised import sft_rows
from train_cluster.supervised.sft_config import SftConfig

ROWS_AT_ONCE = 4096
"""Rendered and tokenised together: bounds the text in memory."""


@dataclass(kw_only=True, slots=True)
class Examples:
    """Of one path."""

    path: str
    rows: int
    sha256: str
    """Over names and content of its files."""
    kept: list[sft_rows.Tokens] = field(default_factory=list)
    truncated: int = 0
    skipped: int = 0
    """Too long, or nothing of their answer is left."""
    unended: int = 0
    """Whose template ends the answer without a stop token."""

    def as_dict(self) -> dict[str, Any]:
        counts = {"rows": self.rows, "examples": len(self.kept), "truncated": self.truncated, "skipped": self.skipped}
        return {"path": self.path, "sha256": self.sha256, **counts}


def sources_of(config: SftConfig) -> dict[str, SourceConfig]:
    """By key; the rows are described in the words of the prompts' data sets, whose readers they share."""
    form: dict[str, Any] = {"prompt_column": config.text_column or config.prompt_column, "metadata": {}}
    form["messages_column"] = config.messages_column
    if config.messages_column is None and config.text_column is None:
        form["metadata"] = {"completion_column": config.completion_column}
    sources = {"sft": SourceConfig(path=config.path, split=config.split, **form)}
    if config.held_out_path is not None:
        sources["sft.held_out"] = SourceConfig(path=config.held_out_path, split=config.held_out_split, **form)
    return sources


def open_rows(key: str, one: SourceConfig, config: SftConfig) -> Source:
    try:
        source = open_one(key, one)
        refuse(source.bad)
    except RecipeError as error:
        raise RecipeError(_in_own_words(line, config) for line in error.lines) from None
    return source


def _in_own_words(line: str, config: SftConfig) -> str:
    line = line.replace("sft.held_out.path", "sft.held_out_path").replace("sft.held_out.split", "sft.held_out_split")
    line = (
        line.replace("sft.held_out.", "sft.")
        .replace("sft.metadata.", "sft.")
        .replace("file of prompts", "file of examples")
    )
    return line if config.text_column is None else line.replace("sft.prompt_column", "sft.text_column")


def read_examples(source: Source, recipe: Recipe, config: SftConfig, model: ModelFolder) -> tuple[Examples, list[str]]:
    """The rows of one path as examples, and the lines of those that are refused."""
    form = form_of(recipe, config, model.tokenizer)
    where = {"sft": "sft.path", "sft.held_out": "sft.held_out_path"}[source.key]
    limit = config.max_tokens or model.context_tokens
    found = Examples(path=source.path, rows=len(source.rows), sha256=source.digest)
    lines: list[str] = []

    def refused(index: int, error: object) -> None:
        lines.append(f"{where} = {source.path}: {source.rows.where(index)} {error}")

    for start in range(0, len(source), ROWS_AT_ONCE):
        marked: dict[int, sft_rows.Marked] = {}
        for index in source.good[start : start + ROWS_AT_ONCE].tolist():
            try:
                marked[index] = form.mark(source.rows.row(index))
            except ValueError as error:
                refused(index, error)
        tokens = sft_rows.tokenise([*marked.values()], model.tokenizer, stop_token_ids=model.stop_token_ids)
        for index, one in zip(marked, tokens, strict=True):
            try:
                _keep(found, one, config, limit=limit, stop_token_ids=model.stop_token_ids)
            except ValueError as error:
                refused(index, error)
    return found, lines


def _keep(
    found: Examples, tokens: sft_rows.Tokens, config: SftConfig, *, limit: int, stop_token_ids: tuple[int, ...]
) -> None:
    """ValueError: the row is refused."""
    whole = tokens.within(len(tokens.ids))
    if whole is not None and not whole.prompt_tokens:
        raise ValueError("has no token before what is trained, from which it could be predicted; give it a prompt")
    if whole is None or len(whole.ids) <= limit:
        kept = whole
        found.unended += kept is not None and int(kept.ids[-1]) not in stop_token_ids
    elif config.too_long == "refuse":
        room = "sft.max_tokens" if config.max_tokens else "the context of sft.base"
        counts = f"has {len(whole.ids)} tokens, and {limit} fit ({room})"
        raise ValueError(f"{counts}; shorten it, or set sft.too_long to truncate or skip")
    else:
        kept = whole.within(limit) if config.too_long == "truncate" else None
        found.truncated += kept is not None
    if kept is None:
        found.skipped += 1
    else:
        found.kept.append(kept)


def form_of(recipe: Recipe, config: SftConfig, tokenizer: Any) -> sft_rows.Form:
    prompt = recipe.data.system_prompt
    system = () if prompt is None else ({"role": "system", "content": prompt},)
    if config.messages_column is not None:
        column = config.messages_column
        return sft_rows.Chat(column=column, tokenizer=tokenizer, train_on=config.train_on, system=system)
    if config.text_column is not None:
        assert config.response_template is not None, "a rule of the recipe"
        return sft_rows.PlainText(column=config.text_column, response_template=config.response_template)
    return sft_rows.PromptAndCompletion(
        prompt_column=config.prompt_column,
        completion_column=config.completion_column,
        templated=tokenizer if recipe.data.chat_template else None,
        system=system,
    )
