"""Recipes that need no file, and prompts that need no tokenizer."""

from typing import Any

import numpy as np
from orchestrator_folders import sections

from orchestrator.config import Recipe
from orchestrator.prompts import PromptIssuer, SourcePrompt


def a_recipe(**changes: Any) -> Recipe:
    """`section__key=value`; corrections are on, so that staleness is allowed."""
    return Recipe.model_validate(sections(**changes))


class Words:
    """An endless data set in file order, `size` rows a pass."""

    def __init__(self, size: int = 1000) -> None:
        self.size = size

    def draw(self, cursor: int) -> tuple[SourcePrompt, int] | None:
        return self.by_id(f"words:{cursor // self.size}:{cursor % self.size}"), cursor + 1

    def cursors(self, cursor: int) -> dict[str, dict[str, int]]:
        return {"words": {"pass": cursor // self.size, "place": cursor % self.size}}

    def by_id(self, prompt_id: str) -> SourcePrompt:
        return SourcePrompt(prompt_id=prompt_id, tokens=np.array([1], np.int32), metadata={"prompt": prompt_id})


def an_issuer(recipe: Recipe) -> PromptIssuer:
    return PromptIssuer(recipe, source=Words(), stop_token_ids=(1,), lineage=0)  # type: ignore[arg-type]
