"""A row of fine-tuning data as pieces of text, each trained or not, and pieces as tokens.

Pieces are tokenised apart: what is trained begins with a token of its own, as it does where generation goes on from a
prompt. Nothing before the first trained piece, and nothing between two of them, is trained.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from experience.schema import BoolArray, Int32Array

PIECES_AT_ONCE = 4096
"""Tokenised in one call: enough to use all threads of the tokenizer, few enough to bound memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    text: str
    trained: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Marked:
    """A row as text."""

    pieces: tuple[Piece, ...]
    begins_bare: bool
    """The tokenizer puts its special tokens at the start; else a template has written them."""
    ends_bare: bool
    """The eos token belongs at the end; else a template has written what ends a turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """A row as tokens."""

    ids: Int32Array
    """[T]"""
    trained: BoolArray
    """[T]"""

    @property
    def prompt_tokens(self) -> int:
        """What stands before the first trained token; all, where none is trained."""
        places = self.trained.nonzero()[0]
        return int(places[0]) if places.size else len(self.ids)

    def within(self, limit: int) -> "Tokens | None":
        """Its first `limit` tokens, up to the last that is trained; None: nothing trained is among them."""
        places = self.trained[:limit].nonzero()[0]
        if not places.size:
            return None
        end = int(places[-1]) + 1
        return Tokens(ids=self.ids[:end], trained=self.trained[:end])


class Form(Protocol):
    """mark(row): ValueError says what is wrong with the row, `reason; remedy`."""

    def mark(self, row: Mapping[str, Any]) -> Marked: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptAndCompletion:
    """Two columns. With a tokenizer the prompt is one user turn in its chat template, and eos ends the completion."""

    prompt_column: str
    completion_column: str
    templated: Any = None
    """A tokenizer with a chat template; None: the prompt is taken as it stands."""
    system: tuple[Mapping[str, str], ...] = ()

    def mark(self, row: Mapping[str, Any]) -> Marked:
        prompt, completion = _text(row, self.prompt_column), _text(row, self.completion_column)
        if self.templated is not None:
            turns = [*self.system, {"role": "user", "content": prompt}]
            prompt = _render(self.templated, turns, generation=True)
        pieces = (Piece(text=prompt, trained=False), Piece(text=completion, trained=True))
        return Marked(pieces=pieces, begins_bare=self.templated is None, ends_bare=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A column of turns. Trained is what the template writes of the assistant's turns after its generation prompt."""

    column: str
    tokenizer: Any
    train_on: Literal["last", "all"]
    system: tuple[Mapping[str, str], ...] = ()
    """For a chat that brings no system turn."""

    def mark(self, row: Mapping[str, Any]) -> Marked:
        turns: list[Mapping[str, Any]] = [
            {name: value for name, value in turn.items() if value is not None} for turn in row[self.column]
        ]  # Arrow writes null for a key that a turn lacks
        if turns[0]["role"] != "system":
            turns = [*self.system, *turns]
        answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and i > 0]
        if not answers:
            raise ValueError("has no turn of the assistant that answers one; add it, or leave the row out")
        if self.train_on == "last":
            answers = answers[-1:]
        if not all(turns[i]["content"] for i in answers):
            raise ValueError("has an empty turn of the assistant; give it text, or leave the row out")
        return Marked(pieces=tuple(self._pieces(turns, answers)), begins_bare=False, ends_bare=False)

    def _pieces(self, turns: Sequence[Mapping[str, Any]], answers: Sequence[int]) -> Iterator[Piece]:
        """Each answer after all that stands before it; the template must write a prefix of the chat as its beginning."""
        written = ""
        for i in answers:
            before = _render(self.tokenizer, turns[:i], generation=True)
            through = _render(self.tokenizer, turns[: i + 1], generation=False)
            if not before.startswith(written):
                raise ValueError(
                    "is a chat whose earlier turns the template writes otherwise once others follow, so that they cannot "
                    "be trained as they were generated; set sft.train_on=last"
                )
            if not through.startswith(before):
                raise ValueError(
                    "is a chat whose answer the template does not write after its generation prompt "
                    f"({_end(before)!r} before, {_end(through[: len(before)])!r} then); mend the chat template of sft.base"
                )
            yield Piece(text=before[len(written) :], trained=False)
            yield Piece(text=through[len(before) :], trained=True)
            written = through


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainText:
    """A column of text, trained from the last occurrence of the template on; eos ends it."""

    column: str
    response_template: str

    def mark(self, row: Mapping[str, Any]) -> Marked:
        text = _text(row, self.column)
        start = text.rfind(self.response_template)
        if start < 0:
            raise ValueError(f"holds no {self.response_template!r} in {self.column}; correct the row")
        if not text[start + len(self.response_template) :].strip():
            raise ValueError(f"has nothing after {self.response_template!r}; give it an answer, or leave the row out")
        pieces = (Piece(text=text[:start], trained=False), Piece(text=text[start:], trained=True))
        return Marked(pieces=pieces, begins_bare=True, ends_bare=True)


def tokenise(marked: Sequence[Marked], tokenizer: Any, *, stop_token_ids: Collection[int]) -> list[Tokens]:
    """The rows as tokens. A trained piece is trained whole; where a template has ended it, up to its last stop token."""
    every = [(i, k) for i, row in enumerate(marked) for k in range(len(row.pieces))]
    ids: dict[tuple[int, int], list[int]] = {}
    for special in (True, False):
        places = [(i, k) for i, k in every if (k == 0 and marked[i].begins_bare) == special]
        for start in range(0, len(places), PIECES_AT_ONCE):
            part = places[start : start + PIECES_AT_ONCE]
            texts = [marked[i].pieces[k].text for i, k in part]
            found = tokenizer(
                texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False
            )
            ids |= zip(part, found["input_ids"], strict=True)
    return [
        _joined(row, [ids[i, k] for k in range(len(row.pieces))], tokenizer.eos_token_id, stop_token_ids)
        for i, row in enumerate(marked)
    ]


def _joined(row: Marked, ids: Sequence[Sequence[int]], eos: int, stops: Collection[int]) -> Tokens:
    tokens: list[int] = []
    trained: list[bool] = []
    for piece, part in zip(row.pieces, ids, strict=True):
        count = len(part) if piece.trained else 0
        if count and not row.ends_bare:
            count = next((k for k in range(count, 0, -1) if part[k - 1] in stops), count)
        tokens += part
        trained += [True] * count + [False] * (len(part) - count)
    if row.ends_bare:
        tokens.append(eos)
        trained.append(True)
    return Tokens(ids=np.array(tokens, dtype=np.int32), trained=np.array(trained, dtype=np.bool_))


def _text(row: Mapping[str, Any], column: str) -> str:
    text = row[column]
    if not isinstance(text, str):
        raise ValueError(f"holds {type(text).__name__} in {column}, not text; correct the row")
    if not text:
        raise ValueError(f"has an empty {column}; give it text, or leave the row out")
    return text


def _render(tokenizer: Any, turns: Sequence[Mapping[str, Any]], *, generation: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=generation))
    except Exception as error:  # a template is a program of the model's maker, and raises what it likes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"breaks the chat template ({reason}); correct its turns") from error


def _end(text: str) -> str:
    return text[-40:]
