"""From the texts of a row to tokens: the same for training reward models, for scoring and, in reinforcement, for generation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_TOKENISED_TOGETHER = 1024
"""Texts; a fast tokenizer spreads them over the cores."""


class BadRow(ValueError):
    """`kind` is what the card counts it under."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """How texts become tokens: the same for training, for scoring and, in reinforcement, for generation."""

    tokenizer: Any
    """A transformers tokenizer."""
    chat_template: bool
    """The prompt is a chat in the model's own template; a text is its user's turn."""
    system_prompt: str | None

    def render(self, prompt: Any) -> str:
        """The prompt's text, up to where the answer begins. BadRow: it is none."""
        if isinstance(prompt, str):
            if not prompt.strip():
                raise BadRow("empty", "the prompt is empty")
            if not self.chat_template:
                return prompt
            prompt = [{"role": "user", "content": prompt}]
        elif not is_chat(prompt):
            raise BadRow("wrong type", f"the prompt is {shown(prompt)}, neither a text nor a list of {{role, content}}")
        elif not self.chat_template:
            raise BadRow("wrong type", "the prompt is a chat, and data.chat_template is false")
        if self.system_prompt is not None and prompt[0]["role"] != "system":
            prompt = [{"role": "system", "content": self.system_prompt}, *prompt]
        try:
            return str(self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program of the model's maker, and raises what it likes
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise BadRow("chat template", f"the prompt breaks the chat template ({reason})") from error

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids; a template has written its own special tokens."""
        return self._ids(texts, add_special_tokens=not self.chat_template)

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids, ended by the end-of-sequence token."""
        return [[*ids, self.tokenizer.eos_token_id] for ids in self._ids(texts, add_special_tokens=False)]

    def _ids(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        found: list[list[int]] = []
        for start in range(0, len(texts), _TOKENISED_TOGETHER):
            part = list(texts[start : start + _TOKENISED_TOGETHER])
            found += self.tokenizer(part, add_special_tokens=add_special_tokens)["input_ids"]
        return found


def parse_row(line: bytes) -> dict[str, Any]:
    """BadRow: it is no JSON object."""
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRow("not JSON", f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise BadRow("not JSON", "not a JSON object")
    return row


def answer_text(value: Any, column: str) -> str:
    """An answer: a text, or chat turns that end with the assistant's. BadRow: it is none, or empty."""
    if is_chat(value) and value[-1]["role"] == "assistant":
        value = value[-1]["content"]
    if not isinstance(value, str):
        raise BadRow("wrong type", f"{column} is {shown(value)}, neither a text nor a chat that the assistant ends")
    if not value.strip():
        raise BadRow("empty", f"{column} is empty")
    return value


def is_chat(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) for turn in value)
        and all(isinstance(turn.get(name), str) for turn in value for name in ("role", "content"))
    )


def shown(value: Any) -> str:
    return json.dumps(value)[:40]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
