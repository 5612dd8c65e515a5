"""The prompts: which comes at which place of the endless order, and the record under which it is issued.

The place is a cursor that counts from 0: pass = cursor // n, and within the pass a permutation that follows from
(seed, pass) alone. So a cursor in the ledger is all that a resume needs.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from experience.schema import Int32Array, Issue, Prompt, Sampling
from orchestrator.config import Recipe
from orchestrator.modelfolder import ModelFolder
from orchestrator.recipe import RecipeError
from orchestrator.sections import DataConfig

MAX_PROBLEMS = 20
"""Bad lines of one file that are shown; the rest is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePrompt:
    prompt_id: str
    tokens: Int32Array
    """[P], read-only"""
    metadata: Mapping[str, Any]
    """The row; `prompt` holds the text."""


class PromptSource:
    """The rows of one JSONL file, tokenised. RecipeError: one line for each bad line of the file."""

    def __init__(self, config: DataConfig, *, tokenizer: Any, seed: int, limit_tokens: int) -> None:
        """limit_tokens: the longest prompt that leaves room for the response."""
        self._name, self._shuffle, self._seed = config.dataset, config.shuffle, seed
        rows = read_rows(config.path, field="data.path", columns={"data.prompt_column": config.prompt_column})
        texts = [row.fields[config.prompt_column] for row in rows]
        self._tokens = [np.asarray(ids, np.int32) for ids in _tokenise(texts, config, tokenizer)]
        _check_lengths(config, rows, self._tokens, limit_tokens)
        for tokens in self._tokens:
            tokens.setflags(write=False)
        self._rows = [{**row.fields, "prompt": text} for row, text in zip(rows, texts, strict=True)]
        self._order = lru_cache(maxsize=2)(self._order_of_pass)
        self.digest = hashlib.sha256(Path(config.path).read_bytes()).hexdigest()
        """SHA-256 of the file: a cursor means something for these rows only."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def longest_tokens(self) -> int:
        return max(len(tokens) for tokens in self._tokens)

    def at(self, cursor: int) -> SourcePrompt:
        number, place = divmod(cursor, len(self))
        return self._prompt(number, int(self._order(number)[place]))

    def by_id(self, prompt_id: str) -> SourcePrompt:
        """The prompt that `at` named so. ValueError: it is none of this data set's."""
        name, number, index = prompt_id.rsplit(":", 2)
        if name != self._name or int(index) >= len(self):
            raise ValueError(
                f"prompt {prompt_id} is none of the {len(self)} of data set {self._name}; restore its file"
            )
        return self._prompt(int(number), int(index))

    def _prompt(self, number: int, index: int) -> SourcePrompt:
        prompt_id = f"{self._name}:{number}:{index}"
        return SourcePrompt(prompt_id=prompt_id, tokens=self._tokens[index], metadata=self._rows[index])

    def _order_of_pass(self, number: int) -> npt.NDArray[np.int64]:
        return permutation(self._seed, number, len(self)) if self._shuffle else np.arange(len(self))


class PromptIssuer:
    """Makes Prompt records; which one is a pure function of its arguments."""

    def __init__(self, recipe: Recipe, *, source: PromptSource, stop_token_ids: Sequence[int], lineage: int) -> None:
        self._recipe, self._source, self._lineage = recipe, source, lineage
        self._stop_token_ids = tuple(stop_token_ids)
        self.source_digest = source.digest
        """SHA-256 of the prompts' file."""

    def next(self, cursor: int, *, sequence: int, min_version: int) -> Prompt:
        """The prompt at a place of the order, for the first time."""
        return self._issue(self._source.at(cursor), attempt=0, sequence=sequence, min_version=min_version)

    def anew(self, issue: Issue, *, sequence: int, min_version: int) -> Prompt:
        """The prompt of an earlier issue, under the next attempt."""
        source = self._source.by_id(issue.prompt_id)
        return self._issue(source, attempt=issue.attempt + 1, sequence=sequence, min_version=min_version)

    def _issue(self, source: SourcePrompt, *, attempt: int, sequence: int, min_version: int) -> Prompt:
        generation = self._recipe.generation
        return Prompt(
            run_id=self._recipe.run.name,
            lineage=self._lineage,
            sequence=sequence,
            prompt_id=source.prompt_id,
            attempt=attempt,
            tokens=source.tokens,
            metadata=source.metadata,
            group_size=generation.group_size,
            sampling=Sampling(
                temperature=generation.temperature,
                max_tokens=generation.max_tokens,
                stop_token_ids=self._stop_token_ids,
                seed=sampling_seed(self._recipe.run.seed, self._lineage, sequence),
            ),
            min_version=min_version,
            deadline_s=generation.deadline_s,
        )


def open_source(recipe: Recipe, model: ModelFolder) -> PromptSource:
    """The recipe's prompts as its model reads them."""
    return PromptSource(
        recipe.data,
        tokenizer=model.tokenizer,
        seed=recipe.run.seed,
        limit_tokens=prompt_limit(recipe, model),
    )


def prompt_limit(recipe: Recipe, model: ModelFolder) -> int:
    """Tokens that a prompt may have: what the context leaves beside the longest response, or less if the data says so."""
    context = recipe.generation.engine.max_model_tokens or model.context_tokens
    room = context - recipe.generation.max_tokens
    return min(room, recipe.data.max_prompt_tokens or room)


def permutation(seed: int, number: int, size: int) -> npt.NDArray[np.int64]:
    """[size] the order of one pass: ranks of Philox's raw output under the key (seed, number).

    Raw output is the same on every machine and, unlike Generator.permutation (NEP 19), in every version of numpy.
    """
    key = np.array([seed, number], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(size), kind="stable")


def sampling_seed(run_seed: int, lineage: int, sequence: int) -> int:
    """62 bits, so that adding a sample's index never overflows an int64."""
    digest = hashlib.sha256(f"{run_seed}/{lineage}/{sequence}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    line: int
    """In the file, from 1."""
    fields: dict[str, Any]


def read_rows(path: str, *, field: str, columns: Mapping[str, str]) -> list[Row]:
    """The objects of a JSONL file, blank lines left out. RecipeError: one line for each bad one.

    field: the recipe's key of the path; columns: {the recipe's key of a column: the column, which must hold text}.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RecipeError([f"{field} = {path}: cannot be read ({error.strerror}); give a JSONL file"]) from None
    rows, problems = [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = _parse_row(line)
        except ValueError as error:
            problems.append(f"{field} = {path}: line {number} {error}; correct the line")
            continue
        problems += _column_problems(path, number, fields, columns)
        rows.append(Row(line=number, fields=fields))
    if not rows and not problems:
        problems.append(f"{field} = {path}: the file is empty; put one JSON object on each line")
    _refuse(problems)
    return rows


def _parse_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    try:
        msgspec.msgpack.encode(row)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot travel ({error})") from None
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"holds {name}, which is not JSON")


def _column_problems(path: str, number: int, fields: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[str]:
    for key, column in columns.items():
        where = f"{key} = {column}: line {number} of {path}"
        if column not in fields:
            near = get_close_matches(column, list(fields), n=1, cutoff=0.0)
            remedy = f"set {key}={near[0]} or add the column" if near else "add the column"
            yield f"{where} has no such column, only {', '.join(fields) or 'none'}; {remedy}"
        elif not isinstance(fields[column], str):
            yield f"{where} holds {json.dumps(fields[column])[:40]} there, not text; correct the line"


def _tokenise(texts: Sequence[str], config: DataConfig, tokenizer: Any) -> Sequence[Sequence[int]]:
    if not config.chat_template:
        return list(tokenizer(list(texts))["input_ids"])
    if tokenizer.chat_template is None:
        raise RecipeError(
            ["data.chat_template = true: the model's tokenizer has no chat template; set data.chat_template=false"]
        )
    system = [] if config.system_prompt is None else [{"role": "system", "content": config.system_prompt}]
    chats = [[*system, {"role": "user", "content": text}] for text in texts]
    render: Callable[..., list[str]] = tokenizer.apply_chat_template
    # The template writes its own special tokens: the tokenizer must not add them a second time.
    written = render(chats, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(written, add_special_tokens=False)["input_ids"])


def _check_lengths(config: DataConfig, rows: Sequence[Row], tokens: Sequence[Int32Array], limit: int) -> None:
    problems = []
    for row, ids in zip(rows, tokens, strict=True):
        where = f"data.path = {config.path}: line {row.line}"
        if len(ids) == 0:
            problems.append(f"{where} has a prompt of no tokens; give it text")
        elif len(ids) > limit:
            problems.append(
                f"{where} has a prompt of {len(ids)} tokens, and {max(limit, 0)} fit beside the response; shorten it, lower "
                "generation.max_tokens, or raise generation.engine.max_model_tokens or data.max_prompt_tokens"
            )
    _refuse(problems)


def _refuse(problems: Sequence[str]) -> None:
    if len(problems) > MAX_PROBLEMS:
        rest = f"… and {len(problems) - MAX_PROBLEMS} more lines like these"
        raise RecipeError([*problems[:MAX_PROBLEMS], rest])
    if problems:
        raise RecipeError(problems)
