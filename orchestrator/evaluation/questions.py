"""The held-out prompts of an evaluation, read and checked as those of training are."""

from collections.abc import Mapping
from typing import Any

from orchestrator.data.config import DataConfig, OneSource, SourceConfig
from orchestrator.data.rows import MAX_PROBLEMS
from orchestrator.data.source import open_one
from orchestrator.data.tokens import PromptTokenizer
from orchestrator.evaluation.config import EvaluationConfig
from orchestrator.evaluation.records import Question
from orchestrator.recipe import RecipeError


def read_questions(
    config: EvaluationConfig,
    *,
    tokenizer: Any,
    chat_template: bool,
    system_prompt: str | None,
    limit_tokens: int,
) -> tuple[Question, ...]:
    """The first `config.limit` prompts in file order. RecipeError: all that is wrong with them, a line each.

    limit_tokens: the longest prompt that leaves room for the response.
    """
    told = {name: getattr(config, name) for name in OneSource.model_fields}
    source = open_one("evaluation", SourceConfig(path=config.path, **told))
    if source.bad_rows:
        more = [f"… and {source.bad_rows - len(source.bad)} more lines like these"] * (
            source.bad_rows > len(source.bad)
        )
        raise RecipeError([*source.bad[:MAX_PROBLEMS], *more])
    indices = [int(index) for index in source.good[: config.limit]]
    rows = [source.at(index) for index in indices]
    how = DataConfig(path=config.path, chat_template=chat_template, system_prompt=system_prompt)
    tokenised = PromptTokenizer(how, tokenizer=tokenizer, limit_tokens=limit_tokens).batch(rows)
    problems = [
        f"{source.where(index)} {one.unfit}" for index, one in zip(indices, tokenised, strict=True) if one.unfit
    ]
    if problems:
        raise RecipeError(problems[:MAX_PROBLEMS])
    column = config.category_column
    return tuple(
        Question(
            text=row.text,
            tokens=one.tokens,
            category="" if column is None else _category(row.metadata, column, source.where(index)),
            metadata=row.metadata,
        )
        for index, row, one in zip(indices, rows, tokenised, strict=True)
    )


def _category(row: Mapping[str, Any], column: str, where: str) -> str:
    if column not in row:
        named = ", ".join(row)[:200]
        raise RecipeError(
            [
                f"evaluation.category_column = {column}: {where.partition(': ')[2]} has no such column, only {named}; "
                "name one of these, or null"
            ]
        )
    return str(row[column])
