"""Settings of the prompts: which files, which columns, how they become tokens, in what order."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class OneSource(BaseModel):
    """What is said of one data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: str | None = Field(default=None, min_length=1)
    """Of a folder that holds several; null = the only one there is."""
    prompt_column: str = "prompt"
    """Column that holds the text of the prompt."""
    messages_column: str | None = None
    """Column that holds chat turns, a list of {role, content}, in place of the text; turns of the assistant at its end are no part of the prompt."""
    metadata: Mapping[str, str] | None = None
    """What reaches the reward functions, {their name for it: column}; null = every column that JSON can carry."""
    name: str | None = Field(default=None, min_length=1)
    """First part of every prompt_id; null = the path's last part, without its suffix."""

    @field_validator("metadata")
    @classmethod
    def _prompt_is_taken(cls, metadata: Mapping[str, str] | None) -> Mapping[str, str] | None:
        if metadata is not None and "prompt" in metadata:
            raise ValueError(
                "reward functions find the text of the prompt under the name prompt; give the column another"
            )
        return metadata


class SourceConfig(OneSource):
    """One data set of a mixture."""

    path: str
    """As data.path."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the prompts, in proportion to the other weights; at most four decimal places are kept apart."""

    @property
    def dataset(self) -> str:
        return self.name or PurePath(self.path).stem


class DataConfig(OneSource):
    """The prompts: one data set (path and the keys that describe it), or several (sources)."""

    path: str | None = None
    """JSONL, Parquet or Arrow file, or a Hugging Face data-set folder of such files."""
    sources: tuple[SourceConfig, ...] = ()
    """Several data sets in place of the one, mixed by weight."""
    chat_template: bool = False
    """True: the prompt is a chat in the model's own template; a text is its user's turn."""
    system_prompt: str | None = None
    """System turn of the chat template; a chat that brings one keeps its own."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """A longer prompt is unfit; null = whatever leaves room for generation.max_tokens in the context."""
    unfit_prompts: Literal["refuse", "drop"] = "refuse"
    """What becomes of a prompt that is too long, has no tokens, or breaks the chat template: it ends the run, or its place is passed over and counted."""
    max_bad_rows: int = Field(default=0, ge=0)
    """Rows of all files together that may be unreadable, or lack what the recipe names; they are left out. More are refused."""
    passes: int | None = Field(default=None, ge=1)
    """Over each data set, at most; null = as many as the steps need."""
    shuffle: bool = True
    """A new order each pass, drawn from run.seed; False: file order."""

    def each(self) -> dict[str, SourceConfig]:
        """The data sets, by the recipe's key under which each is described."""
        if self.sources:
            return {f"data.sources.{index}": source for index, source in enumerate(self.sources)}
        assert self.path is not None, "a rule of the recipe"
        own = {name: getattr(self, name) for name in OneSource.model_fields}
        return {"data": SourceConfig(path=self.path, **own)}
