"""From a row to tokens: the chat template, the tokenizer, and which prompts cannot be asked."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experience.schema import Int32Array
from orchestrator.data.config import DataConfig
from orchestrator.data.source import RawPrompt
from orchestrator.recipe import RecipeError


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenised:
    tokens: Int32Array
    """[P], read-only; what there is of it where the prompt is unfit"""
    unfit: str
    """Why it cannot be asked, `reason; remedy`; empty where it can."""


class PromptTokenizer:
    """Renders and tokenises in batches; a tokenizer is used by one thread at a time, as it refuses more."""

    def __init__(self, config: DataConfig, *, tokenizer: Any, limit_tokens: int) -> None:
        """limit_tokens: the longest prompt that leaves room for the response. RecipeError: no chat template."""
        self._config, self._tokenizer, self._limit = config, tokenizer, limit_tokens
        self._lock = threading.Lock()
        if config.chat_template and tokenizer.chat_template is None:
            raise RecipeError(
                ["data.chat_template = true: the model's tokenizer has no chat template; set data.chat_template=false"]
            )

    def batch(self, prompts: Sequence[RawPrompt]) -> list[Tokenised]:
        with self._lock:
            rendered = [self._render(prompt) for prompt in prompts]
            texts = [text for text, _ in rendered]
            # A template writes its own special tokens: the tokenizer must not add them a second time.
            ids = self._tokenizer(texts, add_special_tokens=not self._config.chat_template)["input_ids"]
        return [self._judged(one, problem) for one, (_, problem) in zip(ids, rendered, strict=True)]

    def shown(self, tokens: Int32Array) -> str:
        """As the model sees it, special tokens and white space between tokens included."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _render(self, prompt: RawPrompt) -> tuple[str, str]:
        """The text to tokenise, and why there is none."""
        if not self._config.chat_template:
            return prompt.text, ""
        turns = self._turns(prompt)
        if not any(turn["role"] != "system" for turn in turns):
            return "", "has no turn to answer; give it one of the user"
        try:
            return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)), ""
        except Exception as error:  # a template is a program of the model's maker, and raises what it likes
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return "", f"breaks the chat template ({reason}); correct its turns"

    def _turns(self, prompt: RawPrompt) -> list[Mapping[str, Any]]:
        turns: list[Mapping[str, Any]] = list(prompt.turns or ())
        if prompt.turns is None:
            turns = [{"role": "user", "content": prompt.text}]
        if self._config.system_prompt is not None and not (turns and turns[0]["role"] == "system"):
            turns.insert(0, {"role": "system", "content": self._config.system_prompt})
        return turns

    def _judged(self, ids: Sequence[int], problem: str) -> Tokenised:
        tokens = np.asarray(ids, np.int32)
        tokens.setflags(write=False)
        if not problem and len(tokens) == 0:
            problem = "has a prompt of no tokens; give it text"
        elif not problem and len(tokens) > self._limit:
            problem = (
                f"has a prompt of {len(tokens)} tokens, and {max(self._limit, 0)} fit beside the response; shorten it, lower "
                "generation.max_tokens, or raise generation.engine.max_model_tokens or data.max_prompt_tokens"
            )
        return Tokenised(tokens=tokens, unfit=problem)
