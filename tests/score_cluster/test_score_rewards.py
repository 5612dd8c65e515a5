"""Loading reward functions, refusing bad ones, and turning their values into components and a total."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_cluster.answers import Answers, RewardFailed
from score_cluster.config import ScoringConfig
from score_cluster.judge import Judge, Judgement
from score_cluster.patience import Patience
from score_cluster.reward_config import FunctionRewardConfig
from score_cluster.rewards import FunctionSource, Reward, hash_of, load

MODULE = """
from typing import Any
from score_cluster.rewards import needs

def length(*, prompt: str, completion: str, metadata: dict[str, Any], scale: float = 1.0) -> float:
    return scale * len(completion)

def required(*, prompt: str, completion: str, metadata: dict[str, Any], limit: int) -> float:
    return float(limit)

def positional(completion: str) -> float:
    return 0.0

@needs("a_module_nobody_has", remedy="pip install it")
def heavy(*, prompt: str, completion: str, metadata: dict[str, Any]) -> float:
    return 0.0

async def later(*, prompt: str, completion: str, metadata: dict[str, Any]) -> float:
    return 0.0

def drips(*, prompt: str, completion: str, metadata: dict[str, Any]) -> Any:
    yield 0.0

def leaves(*, prompt: str, completion: str, metadata: dict[str, Any]) -> float:
    raise SystemExit("first\\nsecond")

CALLS = []

def counts(*, prompt: str, completion: str, metadata: dict[str, Any]) -> float:
    CALLS.append(completion)
    return float(len(CALLS))

def returns(*, prompt: str, completion: str, metadata: dict[str, Any]) -> Any:
    return metadata["value"]

NOT_A_FUNCTION = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module of a user's reward functions."""
    name = f"rewards_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def component(function: str, *, weight: float = 1.0, name: str = "mine", **arguments: Any) -> FunctionRewardConfig:
    return FunctionRewardConfig(name=name, function=function, weight=weight, arguments=arguments)


def answers(*completions: str, **metadata: Any) -> Answers:
    return Answers(
        sequence=7,
        prompt="p",
        prompt_tokens=np.zeros(1, dtype=np.int32),
        metadata=metadata,
        completions=completions,
        tokens=tuple(np.zeros(len(text), dtype=np.int32) for text in completions),
        finished=(True,) * len(completions),
        max_tokens=10,
    )


def score(reward: Reward, **metadata: Any) -> float:
    """Of the completion abc; raises what the source gives as failure."""
    (answer,) = FunctionSource(reward, patience=Patience(10.0)).score([answers("abc", **metadata)])
    if isinstance(answer, RewardFailed):
        raise answer
    return answer.values[0]


def judged(*rewards: FunctionRewardConfig, batch: list[Answers]) -> list[Judgement | RewardFailed]:
    return Judge(ScoringConfig(rewards=rewards), model_path="").judge(batch)


def test_components_are_raw_and_the_total_is_weighted(module: str) -> None:
    long = component(f"{module}:length", name="long", weight=0.5, scale=2.0)
    right = component("score_cluster.functions:exact_match", name="right", weight=10.0)
    (value,) = judged(long, right, batch=[answers("abc", "ab", answer="abc")])
    assert isinstance(value, Judgement)
    assert value.components == {"long": (6.0, 4.0), "right": (1.0, 0.0)}
    assert value.totals == pytest.approx((0.5 * 6 + 10 * 1, 0.5 * 4))
    assert value.measures == {}


def test_a_group_that_one_component_fails_on_fails_alone_and_is_asked_no_further(module: str) -> None:
    first, second = component(f"{module}:returns", name="first"), component(f"{module}:counts", name="second")
    good, bad = answers("a", "b", value=1.0), answers("c", value="one")
    values = judged(first, second, batch=[bad, good])
    assert isinstance(values[0], RewardFailed)
    assert (values[0].component, values[0].sequence) == ("first", 7)
    assert isinstance(values[1], Judgement)
    assert values[1].components == {"first": (1.0, 1.0), "second": (1.0, 2.0)}  # called for two completions, not three


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("no_colon", {}, "must have the form module:function"),
        (":f", {}, "must have the form module:function"),
        (
            "no_such_module_anywhere:f",
            {},
            "'no_such_module_anywhere' cannot be imported .*put its folder on PYTHONPATH",
        ),
        (
            "{module}:absent",
            {},
            "no such function; it has counts, drips, heavy, later, leaves, length, needs, positional, required, returns",
        ),
        ("{module}:NOT_A_FUNCTION", {}, "no such function"),
        ("{module}:positional", {}, "must take prompt, completion and metadata by keyword"),
        ("{module}:later", {}, "a coroutine or a generator; write a plain function"),
        ("{module}:drips", {}, "a coroutine or a generator; write a plain function"),
        ("{module}:length", {"scal": 2}, "unexpected keyword argument 'scal'; it takes scale"),
        ("{module}:required", {}, "missing a required argument: 'limit'; it takes limit"),
        ("{module}:heavy", {}, "needs the module 'a_module_nobody_has', which is not installed; pip install it"),
        ("score_cluster.functions:length_penalty", {"prompt": 1}, "multiple values .*'prompt'"),
    ],
)
def test_bad_components_are_refused_with_name_value_and_remedy(
    module: str, function: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        load(component(function.format(module=module), **arguments))
    assert str(refusal.value).startswith("reward 'mine': ")


def test_a_module_that_breaks_on_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reward_module_that_breaks.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="ZeroDivisionError: division by zero"):
        load(component("reward_module_that_breaks:f"))


@pytest.mark.parametrize("statement", ["sys.exit()", "sys.exit(3)", 'raise RuntimeError("exit\\nat once")'])
def test_a_module_that_leaves_on_import_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    (tmp_path / "reward_module_that_leaves.py").write_text(f"import sys\n{statement}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be imported \((SystemExit|RuntimeError: exit at once)") as refusal:
        load(component("reward_module_that_leaves:f"))
    assert "\n" not in str(refusal.value)


def test_what_a_module_prints_on_import_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reward_module_that_prints.py").write_text(f"print('hello')\n{MODULE}")
    monkeypatch.syspath_prepend(str(tmp_path))
    load(component("reward_module_that_prints:length"))
    assert capsys.readouterr() == ("", "hello\n")


def test_two_components_of_one_name_are_refused(module: str) -> None:
    with pytest.raises(ValueError, match="'mine' is given twice"):
        judged(component(f"{module}:length"), component(f"{module}:length", scale=2.0), batch=[])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1.0", [1.0]])
def test_what_is_no_finite_number_fails_the_group(module: str, value: Any) -> None:
    with pytest.raises(RewardFailed, match="'mine' failed on group 7: returned") as failure:
        score(load(component(f"{module}:returns")), value=value)
    assert (failure.value.component, failure.value.sequence) == ("mine", 7)


def test_a_function_that_raises_fails_the_group_and_says_why(module: str) -> None:
    with pytest.raises(RewardFailed, match="group 7: KeyError: 'value'"):
        score(load(component(f"{module}:returns")))


def test_a_function_that_leaves_fails_the_group_and_not_the_worker(module: str) -> None:
    with pytest.raises(RewardFailed, match=r"group 7: SystemExit: first second$"):
        score(load(component(f"{module}:leaves")))


def test_true_and_numpy_numbers_are_numbers(module: str) -> None:
    reward = load(component(f"{module}:returns"))
    assert score(reward, value=True) == 1.0
    assert score(reward, value=np.float32(0.5)) == 0.5


def test_the_hash_follows_source_and_arguments_but_not_name_or_weight(module: str, tmp_path: Path) -> None:
    def hashed(function: str = f"{module}:length", **changes: Any) -> str:
        return load(component(function, **changes)).hash

    first = hashed()
    assert len(first) == 64
    assert first == hashed(name="other", weight=3.0)
    assert first != hashed(scale=2.0)
    assert first != hashed(f"{module}:returns")
    copy = tmp_path / "a_changed_copy.py"
    copy.write_text(MODULE + "# changed\n")
    assert first != hashed("a_changed_copy:length")
    assert hash_of(load(component(f"{module}:length")).function, {}) == first
