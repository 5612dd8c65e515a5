"""What a source of rewards is given, what it gives, and how it fails: one prompt's completions at a time, several at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from experience.schema import CompletionGroup, Int32Array

Decode = Callable[[Int32Array], str]
"""Response tokens -> text, special tokens left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The G completions of one prompt, as text and as the policy's tokens."""

    sequence: int
    """Names the group in failures."""
    prompt: str
    prompt_tokens: Int32Array
    """[P]"""
    metadata: Mapping[str, Any]
    """The data set's row."""
    completions: tuple[str, ...]
    """G texts, special tokens left out."""
    tokens: tuple[Int32Array, ...]
    """G arrays of [L], the end-of-sequence token included where the answer ended by itself."""
    finished: tuple[bool, ...]
    """G: whether the answer ended by itself, not by its length."""
    max_tokens: int
    """What the prompt may be answered with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What one source says of one prompt's completions."""

    values: tuple[float, ...]
    """G raw, unweighted rewards; finite."""
    measures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """G numbers a name: what informs and is no reward, as the disagreement of an ensemble."""


class RewardFailed(RuntimeError):
    """A component could not score a group's completions; the group must be retried or quarantined."""

    def __init__(self, *, component: str, sequence: int, problem: str) -> None:
        super().__init__(f"reward {component!r} failed on group {sequence}: {problem}")
        self.component = component
        self.sequence = sequence


class RewardSource(Protocol):
    """One component of the reward.

    name            in reports and metrics
    hash            SHA-256 of what makes the values: source of a function, weights of a model
    score(batch)    for each prompt, in order, its Scores or why there are none; one prompt's failure is not another's.
                    What it raises is the failure of all of them
    close()         gives back what it holds; it scores no more
    """

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...

    def score(self, batch: Sequence[Answers]) -> list[Scores | RewardFailed]: ...

    def close(self) -> None: ...


def answers_of(group: CompletionGroup, *, decode: Decode) -> Answers:
    """A group of completions as its judges see it."""
    prompt = group.prompt
    return Answers(
        sequence=prompt.sequence,
        prompt=prompt.metadata["prompt"],
        prompt_tokens=prompt.tokens,
        metadata=prompt.metadata,
        completions=tuple(decode(completion.tokens) for completion in group.completions),
        tokens=tuple(completion.tokens for completion in group.completions),
        finished=tuple(completion.finish_reason == "stop" for completion in group.completions),
        max_tokens=prompt.sampling.max_tokens,
    )
