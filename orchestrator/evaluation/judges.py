"""Who says which of two answers is better.

A judge of scores rates answers one by one: the higher score wins (a reward model, a reward function, the recipe's own
reward). A judge of pairs sees both at once (a function of `first` and `second`, an HTTP service), and since such judges
favour a place, each pair is shown in both orders: a verdict that changes with the order is a tie, and is counted.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from orchestrator.errors import EvaluationFailed
from orchestrator.evaluation.config import JudgeConfig
from orchestrator.evaluation.records import Answers, Pair, Progress, Question
from orchestrator.evaluation.rewards import Rewards
from orchestrator.imports import resolve
from score_cluster.patience import Patience
from score_cluster.reward_config import FunctionRewardConfig, ModelRewardConfig, RewardConfig


def silent(done: int, total: int) -> None: ...


@runtime_checkable
class ScoreJudge(Protocol):
    """Rates answers: [P][S] numbers, the higher the better. EvaluationFailed: it could not."""

    name: str

    def scores(self, questions: Sequence[Question], answers: Answers, progress: Progress) -> list[list[float]]: ...


@runtime_checkable
class PairJudge(Protocol):
    """Compares answers: a number a pair, above 0 = the first is better, below 0 = the second, 0 = a tie.

    EvaluationFailed: it could not say.
    """

    name: str

    def prefer(self, pairs: Sequence[Pair], progress: Progress) -> list[float]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdicts:
    """Of one pair each, asked in both orders."""

    second_won: tuple[float, ...]
    """1 = the second answer, 0 = the first, 1/2 = a tie."""
    disagreement: float
    """Share of pairs whose verdict changed with the order."""


class TotalJudge:
    """Scores by the total of some components."""

    def __init__(self, name: str, rewards: Rewards) -> None:
        self.name, self._rewards = name, rewards

    def scores(self, questions: Sequence[Question], answers: Answers, progress: Progress) -> list[list[float]]:
        values = self._rewards.values(questions, answers, progress=progress)
        return [[value.total for value in row] for row in values]


class PairFunction:
    """A Python function of two answers."""

    def __init__(
        self, name: str, function: Callable[..., float], arguments: Mapping[str, Any], *, timeout_s: float
    ) -> None:
        self.name, self._function, self._arguments = name, function, dict(arguments)
        self._patience = Patience(timeout_s)

    def prefer(self, pairs: Sequence[Pair], progress: Progress) -> list[float]:
        found = []
        for pair in pairs:
            found.append(self._ask(pair))
            progress(len(found), len(pairs))
        return found

    def _ask(self, pair: Pair) -> float:
        asked = {"prompt": pair.question.text, "first": pair.first, "second": pair.second}

        def call() -> float:
            return self._function(**asked, metadata=pair.question.metadata, **self._arguments)

        failed = f"judge {self.name} failed on {pair.question.text[:60]!r}"
        try:
            value = self._patience.call(call)
        except (Exception, SystemExit) as error:  # a user's function may raise anything
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            raise EvaluationFailed(f"{failed}: {problem}") from error
        if not isinstance(value, Real) or math.isnan(value):
            raise EvaluationFailed(f"{failed}: it returned {value!r}, which is no number")
        return float(value)


def open_judge(config: JudgeConfig, *, model_path: str, threads: int, max_tokens: int) -> ScoreJudge | PairJudge:
    """model_path: the policies' folder. ValueError: one line says what cannot be loaded."""
    if config.url is not None:
        from orchestrator.evaluation.http_judge import HttpJudge  # threads and sockets only where there is one

        return HttpJudge(config)
    if config.function is not None and (function := _pair_function(config)) is not None:
        return PairFunction(config.function, function, config.arguments, timeout_s=config.timeout_s)
    reward: RewardConfig
    if config.function is not None:
        reward = FunctionRewardConfig(name="judge", function=config.function, arguments=dict(config.arguments))
    else:
        reward = ModelRewardConfig(name="judge", kind="model", path=config.model, precision="float32")
    rewards = Rewards(
        [reward], model_path=model_path, threads=threads, timeout_s=config.timeout_s, max_tokens=max_tokens
    )
    return TotalJudge(str(config.function or config.model), rewards)


def both_orders(judge: PairJudge, pairs: Sequence[Pair], progress: Progress = silent) -> Verdicts:
    """Every pair as it is and with its places changed."""
    turned = [Pair(question=one.question, first=one.second, second=one.first) for one in pairs]
    values = judge.prefer([*pairs, *turned], progress)
    straight, reverse = values[: len(pairs)], values[len(pairs) :]
    outcomes = [(_sign(a), -_sign(b)) for a, b in zip(straight, reverse, strict=True)]
    won = tuple(0.5 if a != b else (1 - a) / 2 for a, b in outcomes)
    return Verdicts(second_won=won, disagreement=sum(a != b for a, b in outcomes) / len(pairs))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _pair_function(config: JudgeConfig) -> Callable[..., float] | None:
    """The function, where it takes `first` and `second`; None where it is one of a single answer, or cannot be found,
    which the loader of reward functions says best.
    """
    assert config.function is not None
    try:
        function = resolve(config.function)
        names = inspect.signature(function).parameters
    except Exception:
        return None
    if not {"first", "second"} <= names.keys():
        return None
    try:
        inspect.signature(function).bind(prompt="", first="", second="", metadata={}, **config.arguments)
    except TypeError as error:
        raise ValueError(
            f"evaluation.judge.function = {config.function}: {error}; a judge of pairs takes prompt, first, second and "
            "metadata by keyword, then evaluation.judge.arguments"
        ) from error
    return function
