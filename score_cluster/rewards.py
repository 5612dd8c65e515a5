"""Reward functions: how they are found, what they look like, and how they are called.

A reward function scores one completion, raw and unweighted:

    def f(*, prompt: str, completion: str, metadata: Mapping[str, Any], **arguments) -> float

A penalty returns a number <= 0, so that every weight in a recipe is positive. A function that raises, or returns
anything but a finite number, fails its group: a failure is never a reward of zero.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import ModuleType
from typing import Any, TypeVar

from score_cluster.answers import Answers, RewardFailed, Scores
from score_cluster.patience import OutOfPatience, Patience
from score_cluster.reward_config import FunctionRewardConfig

RewardFunction = Callable[..., float]
F = TypeVar("F", bound=Callable[..., float])

GIVEN = ("prompt", "completion", "metadata")
"""What every reward function is called with, by keyword, beside its arguments of the recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """A function, ready to be called."""

    name: str
    function: RewardFunction
    arguments: Mapping[str, Any]
    hash: str
    """SHA-256 of what makes the raw value; the weight is no part of it."""


class FunctionSource:
    """RewardSource of kind function: one call a completion, and so much patience for the completions of a prompt."""

    def __init__(self, reward: Reward, *, patience: Patience) -> None:
        self.name = reward.name
        self.hash = reward.hash
        self._reward = reward
        self._patience = patience

    def score(self, batch: Sequence[Answers]) -> list[Scores | RewardFailed]:
        return [self._score(answers) for answers in batch]

    def close(self) -> None:
        """Nothing is held."""

    def _score(self, answers: Answers) -> Scores | RewardFailed:
        def values() -> tuple[float, ...]:
            return tuple(_value(self._reward, answers, completion) for completion in answers.completions)

        try:
            return Scores(values=self._patience.call(values))
        except RewardFailed as error:
            return error
        except OutOfPatience as error:
            return RewardFailed(component=self.name, sequence=answers.sequence, problem=str(error))


def needs(module: str, *, remedy: str) -> Callable[[F], F]:
    """Mark a function that imports a heavy or optional module when called, so that `load` can refuse at once."""

    def mark(function: F) -> F:
        function.__dict__["needs"] = {module: remedy}
        return function

    return mark


def load(config: FunctionRewardConfig) -> Reward:
    """Resolve `module:function` by import. ValueError: names the reward, the value that is wrong, and the remedy."""
    function = _find(config)
    _check_signature(config, function)
    return Reward(
        name=config.name,
        function=function,
        arguments=dict(config.arguments),
        hash=hash_of(function, config.arguments),
    )


def hash_of(function: RewardFunction, arguments: Mapping[str, Any]) -> str:
    """SHA-256 over the function's name, the source of its module, and its arguments as sorted JSON."""
    parts = (
        function.__qualname__,
        inspect.getsource(_module_of(function)),
        json.dumps(dict(arguments), sort_keys=True),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _value(reward: Reward, answers: Answers, completion: str) -> float:
    """RewardFailed: the function raised, or gave no finite number."""
    given = {"prompt": answers.prompt, "completion": completion, "metadata": answers.metadata}
    try:
        value = reward.function(**given, **reward.arguments)
    except (Exception, SystemExit) as error:  # a user's function may raise anything; the group fails, not the worker
        failure = RewardFailed(component=reward.name, sequence=answers.sequence, problem=_brief(error))
        raise failure from error
    if not isinstance(value, Real) or not math.isfinite(value):
        problem = f"returned {value!r}, which is not a finite number"
        raise RewardFailed(component=reward.name, sequence=answers.sequence, problem=problem)
    return float(value)


def _find(config: FunctionRewardConfig) -> RewardFunction:
    where = f"reward {config.name!r}: function {config.function!r}"
    module_name, colon, function_name = config.function.partition(":")
    if not (module_name and colon and function_name):
        raise ValueError(f"{where} must have the form module:function, as in score_cluster.functions:exact_match")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to results
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # importing a user's module runs the user's code
        remedy = "install it, or put its folder on PYTHONPATH"
        raise ValueError(f"{where}: module {module_name!r} cannot be imported ({_brief(error)}); {remedy}") from error
    function = getattr(module, function_name, None)
    if not inspect.isfunction(function):
        offered = [name for name, _ in inspect.getmembers(module, inspect.isfunction) if not name.startswith("_")]
        raise ValueError(f"{where}: module {module_name!r} has no such function; it has {', '.join(offered) or 'none'}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise ValueError(f"{where} gives a coroutine or a generator; write a plain function that returns a number")
    for needed, how in getattr(function, "needs", {}).items():
        if importlib.util.find_spec(needed) is None:
            raise ValueError(f"{where} needs the module {needed!r}, which is not installed; {how}")
    return function


def _brief(error: BaseException) -> str:
    """On one line: causes are shown and recorded as such."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _check_signature(config: FunctionRewardConfig, function: RewardFunction) -> None:
    where = f"reward {config.name!r}: function {config.function!r}"
    signature = inspect.signature(function)
    try:
        signature.bind(**dict.fromkeys(GIVEN))
    except TypeError as error:
        if "missing a required" not in str(error):
            remedy = "it must take prompt, completion and metadata by keyword, then its own arguments"
            raise ValueError(f"{where} has the signature {signature}; {remedy}") from error
    own = [name for name in signature.parameters if name not in GIVEN]
    try:
        signature.bind(**dict.fromkeys(GIVEN), **config.arguments)
    except TypeError as error:
        given = f"arguments {sorted(config.arguments)}: {error}"
        raise ValueError(f"{where}: {given}; it takes {', '.join(own) or 'none'}") from error


def _module_of(function: RewardFunction) -> ModuleType:
    module = inspect.getmodule(function)
    if module is None:
        raise ValueError(f"reward function {function!r} belongs to no module, so its source cannot be hashed")
    return module
