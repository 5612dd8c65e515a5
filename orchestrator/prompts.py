"""The prompts: which comes at which place of the endless order, and the record under which it is issued.

The place is a cursor that counts from 0; what stands there is a pure function of the seed, the recipe and the files
(`orchestrator.data.order`). So a cursor in the ledger is all that a resume needs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from experience.schema import Int32Array, Issue, Prompt, Sampling
from orchestrator.config import Recipe
from orchestrator.data.ahead import Lookahead
from orchestrator.data.config import DataConfig
from orchestrator.data.order import Int64Array, Interleave, permutation
from orchestrator.data.source import Source, open_sources
from orchestrator.data.survey import Survey, survey
from orchestrator.data.tokens import PromptTokenizer
from orchestrator.errors import RunFailed
from orchestrator.modelfolder import ModelFolder
from orchestrator.recipe import RecipeError


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePrompt:
    prompt_id: str
    tokens: Int32Array
    """[P], read-only"""
    metadata: Mapping[str, Any]
    """Of the row; `prompt` holds the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """What stands at a place of the order."""

    prompt: SourcePrompt
    unfit: str
    """`field = value: reason; remedy` of a prompt that cannot be asked, else empty."""


class PromptSource:
    """The data sets of a recipe in their one order, tokenised a window ahead.

    Every row is checked when it is opened, and the tokens of `CHECKED_PROMPTS` prompts a data set. RecipeError: one line
    for each thing that is wrong.
    """

    def __init__(self, config: DataConfig, *, tokenizer: Any, seed: int, limit_tokens: int) -> None:
        """limit_tokens: the longest prompt that leaves room for the response."""
        self._config, self._seed = config, seed
        self._sources = open_sources(config)
        self.tokenizer = PromptTokenizer(config, tokenizer=tokenizer, limit_tokens=limit_tokens)
        self._mix = Interleave([source.weight for source in self._sources], seed=seed)
        self.surveys = self._survey()
        """Of each data set, in the recipe's order."""
        self._order = lru_cache(maxsize=2 * len(self._sources) + 1)(self._order_of_pass)
        self._ahead = Lookahead(lambda places: self._prepare([self._row(place) for place in places]))
        limits = [len(source) * (config.passes or 0) for source in self._sources]
        self.places = self._mix.places_within(limits) if config.passes else None
        """Prompts that there are within data.passes; None = endless."""

    def __len__(self) -> int:
        """Rows of all data sets together."""
        return sum(len(source) for source in self._sources)

    @property
    def digests(self) -> Mapping[str, str]:
        """{the recipe's key of a path: SHA-256 of the files there}"""
        return {f"{source.key}.path": source.digest for source in self._sources}

    @property
    def paths(self) -> Mapping[str, str]:
        """{the recipe's key of a path: the path}"""
        return {f"{source.key}.path": source.path for source in self._sources}

    @property
    def longest_tokens(self) -> int:
        """Of the prompts that were checked."""
        return max(one.tokens_longest for one in self.surveys)

    def draw(self, cursor: int) -> tuple[SourcePrompt, int] | None:
        """The first prompt at or after a place that can be asked, and the place after it; None: all passes are over.

        RunFailed: a prompt cannot be asked, and the recipe does not drop it.
        """
        for place in range(cursor, cursor + self._round()):
            if self.places is not None and place >= self.places:
                return None
            found = self._ahead.at(place)
            if not found.unfit:
                return found.prompt, place + 1
            if self._config.unfit_prompts == "refuse":
                raise RunFailed(f"{found.unfit}; or resume with data.unfit_prompts=drop")
        raise RunFailed(
            "data.unfit_prompts = drop: a whole pass over the data had no prompt that can be asked; correct it"
        )

    def by_id(self, prompt_id: str) -> SourcePrompt:
        """The prompt that `draw` named so. ValueError: it is none of these data sets'."""
        name, number, index = prompt_id.rsplit(":", 2)
        for position, source in enumerate(self._sources):
            if source.name == name and int(index) < len(source.rows):
                return self._prepare([(position, int(number), int(index))])[0].prompt
        named = ", ".join(f"{source.name} ({len(source.rows)} rows)" for source in self._sources)
        raise ValueError(f"prompt {prompt_id} is none of data set {named}; restore its file")

    def cursors(self, cursor: int) -> dict[str, dict[str, int]]:
        """By data set: the pass that it is in, and the place within the pass that is drawn next."""
        drawn = zip(self._sources, self._mix.drawn(cursor), strict=True)
        return {source.name: {"pass": count // len(source), "place": count % len(source)} for source, count in drawn}

    def first(self, position: int) -> str:
        """The first prompt of a data set that can be asked, in file order, as the model sees it."""
        source = self._sources[position]
        for index in source.good:
            (one,) = self.tokenizer.batch([source.at(int(index))])
            if not one.unfit:
                return self.tokenizer.shown(one.tokens)
        return ""

    def _survey(self) -> tuple[Survey, ...]:
        surveys: list[Survey] = []
        problems: list[str] = []
        for source, weight in zip(self._sources, self._mix.weights, strict=True):
            share = weight / sum(self._mix.weights)
            drop = self._config.unfit_prompts == "drop"
            try:
                surveys.append(survey(source, self.tokenizer, share=share, drop_unfit=drop))
            except RecipeError as error:
                problems += error.lines
        if problems:
            raise RecipeError(problems)
        return tuple(surveys)

    def _row(self, place: int) -> tuple[int, int, int]:
        """(data set, pass, index among all its rows) of a place."""
        position, drawn = self._mix.at(place)
        source = self._sources[position]
        number, within = divmod(drawn, len(source))
        return position, number, int(source.good[self._order(position, number)[within]])

    def _prepare(self, rows: Sequence[tuple[int, int, int]]) -> list[_Place]:
        raw = [self._sources[position].at(index) for position, _, index in rows]
        places = []
        for (position, number, index), prompt, one in zip(rows, raw, self.tokenizer.batch(raw), strict=True):
            source: Source = self._sources[position]
            prompt_id = f"{source.name}:{number}:{index}"
            made = SourcePrompt(prompt_id=prompt_id, tokens=one.tokens, metadata=prompt.metadata)
            places.append(_Place(prompt=made, unfit=f"{source.where(index)} {one.unfit}" if one.unfit else ""))
        return places

    def _order_of_pass(self, position: int, number: int) -> Int64Array | range:
        size = len(self._sources[position])
        return permutation(self._seed, number, size, source=position) if self._config.shuffle else range(size)

    def _round(self) -> int:
        """Places that hold every row of every data set at least once."""
        block = sum(self._mix.weights)
        blocks = [-(-len(source) // weight) for source, weight in zip(self._sources, self._mix.weights, strict=True)]
        return (max(blocks) + 1) * block


class PromptIssuer:
    """Makes Prompt records; which one is a pure function of its arguments."""

    def __init__(self, recipe: Recipe, *, source: PromptSource, stop_token_ids: Sequence[int], lineage: int) -> None:
        self._recipe, self._lineage = recipe, lineage
        self.source = source
        self._stop_token_ids = tuple(stop_token_ids)

    def next(self, cursor: int, *, sequence: int, min_version: int) -> tuple[Prompt, int] | None:
        """The prompt at a place of the order, for the first time, and the place after it; None: there are no more."""
        drawn = self.source.draw(cursor)
        if drawn is None:
            return None
        return self._issue(drawn[0], attempt=0, sequence=sequence, min_version=min_version), drawn[1]

    def anew(self, issue: Issue, *, sequence: int, min_version: int) -> Prompt:
        """The prompt of an earlier issue, under the next attempt."""
        source = self.source.by_id(issue.prompt_id)
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


def sampling_seed(run_seed: int, lineage: int, sequence: int) -> int:
    """62 bits, so that adding a sample's index never overflows an int64."""
    digest = hashlib.sha256(f"{run_seed}/{lineage}/{sequence}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 2
