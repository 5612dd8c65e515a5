"""What an evaluation is made of: held-out prompts, the answers of a policy, and what judges say of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experience.schema import FinishReason, Float32Array, Int32Array

Progress = Callable[[int, int], None]
"""(done, of how many)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One held-out prompt."""

    text: str
    tokens: Int32Array
    """[N] as the policies read it"""
    category: str
    """"" where there are none"""
    metadata: Mapping[str, Any]
    """Of the row, for functions; `prompt` holds the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One sampled response. L = its tokens, the stop token included."""

    text: str
    """Without special tokens."""
    tokens: Int32Array
    """[L]"""
    logprobs: Float32Array
    """[L] log-prob of each token under the policy that sampled it, nats, after temperature."""
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One answer and what is said of it."""

    answer: Answer
    reward: float | None
    """The recipe's total; None without a recipe."""
    components: Mapping[str, float]
    """Of the recipe's reward, raw and unweighted."""
    score: float | None
    """The judge's; None for a judge that compares pairs."""
    kl: float | None
    """log pi(answer) - log pi_ref(answer), nats, at the sampling temperature (k1); None without a reference."""


Answers = Sequence[Sequence[Answer]]
"""[P][S] the S answers to each of P questions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyAnswers:
    """A policy's answers with all that is said of each of them."""

    name: str
    scored: tuple[tuple[Scored, ...], ...]
    """[P][S]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two answers to one prompt, in the order in which a judge sees them."""

    question: Question
    first: str
    second: str
