"""Judges: of pairs in both orders, of scores, and behind HTTP on a real loopback server that fails in every way."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import judge_server
import numpy as np
import pytest
from evaluation_records import policy, question
from judge_server import winner
from orchestrator_folders import write_tokenizer

from orchestrator.errors import EvaluationFailed
from orchestrator.evaluation import http_judge
from orchestrator.evaluation.config import JudgeConfig
from orchestrator.evaluation.judges import PairJudge, ScoreJudge, both_orders, open_judge, silent
from orchestrator.evaluation.records import Answer, Pair

FUNCTIONS = '''
"""Judges that are of one mind, that favour a place, and that fail."""
import threading

def longer(*, prompt, first, second, metadata, margin=0):
    return len(first) - len(second) if abs(len(first) - len(second)) > margin else 0

def first_place(*, prompt, first, second, metadata):
    return 1

def half_biased(*, prompt, first, second, metadata):
    return len(first) - len(second) + 1.5

def raises(*, prompt, first, second, metadata):
    raise RuntimeError("out\\nof order")

def nothing(*, prompt, first, second, metadata):
    return None

def hangs(*, prompt, first, second, metadata):
    threading.Event().wait()

def length(*, prompt, completion, metadata):
    return len(completion)
'''


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"judge_functions_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_judge, "FIRST_PAUSE_S", 0.0)


def opened(**config: Any) -> Any:
    return open_judge(JudgeConfig(**config), model_path="", threads=1, max_tokens=8)


def pairs(*texts: tuple[str, str]) -> list[Pair]:
    return [Pair(question=question(f"q{i}"), first=first, second=second) for i, (first, second) in enumerate(texts)]


PAIRS = pairs(("aaa", "b"), ("a", "bb"), ("a", "b"))


def test_a_judge_of_one_mind_decides_and_leaves_real_ties(functions: str) -> None:
    judge = opened(function=f"{functions}:longer")
    assert isinstance(judge, PairJudge)
    verdicts = both_orders(judge, PAIRS)
    assert verdicts.second_won == (0.0, 1.0, 0.5)
    assert verdicts.disagreement == 0.0


def test_a_judge_that_favours_a_place_decides_nothing(functions: str) -> None:
    verdicts = both_orders(opened(function=f"{functions}:first_place"), PAIRS)
    assert verdicts.second_won == (0.5, 0.5, 0.5)
    assert verdicts.disagreement == 1.0


def test_a_bias_smaller_than_the_difference_is_overruled(functions: str) -> None:
    # first - second + 1.5: (aaa, b) 3.5 and turned -0.5 agree; (a, bb) 0.5 and turned 2.5 do not; nor does the tie.
    verdicts = both_orders(opened(function=f"{functions}:half_biased"), PAIRS)
    assert verdicts.second_won == (0.0, 0.5, 0.5)
    assert verdicts.disagreement == pytest.approx(2 / 3)


def test_arguments_reach_the_function(functions: str) -> None:
    judge = opened(function=f"{functions}:longer", arguments={"margin": 1})
    assert both_orders(judge, PAIRS).second_won == (0.0, 0.5, 0.5)
    with pytest.raises(ValueError, match="unexpected keyword argument 'marge'"):
        opened(function=f"{functions}:longer", arguments={"marge": 1})


def test_a_reward_function_is_a_judge_of_scores(functions: str) -> None:
    judge = opened(function=f"{functions}:length")
    assert isinstance(judge, ScoreJudge)
    answers = [[one.answer for one in row] for row in policy("p", [[("ab", 0), ("", 0)]]).scored]
    assert judge.scores([question("q")], answers, silent) == [[2.0, 0.0]]


def test_a_reward_model_scores_the_last_token(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=31, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, num_labels=1
    )
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "reward")
    write_tokenizer(tmp_path / "reward")
    write_tokenizer(tmp_path)
    judge = open_judge(JudgeConfig(model=str(tmp_path / "reward")), model_path=str(tmp_path), threads=1, max_tokens=8)
    assert isinstance(judge, ScoreJudge)
    asked = replace(question("q"), tokens=np.array([2, 5, 6], np.int32))
    rows = [[3, 4, 1], [7], [9, 9, 9, 9]]
    answers = [
        [Answer(text="", tokens=np.array(row, np.int32), logprobs=np.zeros(0), finish_reason="stop") for row in rows]
    ]
    with torch.inference_mode():
        expected = [
            model.score(model.model(torch.tensor([[2, 5, 6, *row]])).last_hidden_state[0, -1]).item() for row in rows
        ]
    assert judge.scores([asked], answers, silent)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("function", "timeout_s", "problem"),
    [
        ("raises", 20, "RuntimeError: out of order"),
        ("nothing", 20, "returned None, which is no number"),
        ("hangs", 0.05, "OutOfPatience: did not return within 0.05 s"),
    ],
)
def test_a_function_that_fails_is_named(functions: str, function: str, timeout_s: float, problem: str) -> None:
    judge = opened(function=f"{functions}:{function}", timeout_s=timeout_s)
    with pytest.raises(EvaluationFailed, match=rf"^judge {functions}:{function} failed on 'q0': .*{problem}$"):
        judge.prefer(PAIRS, silent)


@pytest.mark.parametrize("function", ["no_such_module:f", "json:no_such", "nocolon"])
def test_a_function_that_is_not_there_is_refused_before_anything_starts(function: str) -> None:
    with pytest.raises(ValueError, match=function.partition(":")[2] or function):
        opened(function=function)


def test_http_judge_sees_both_orders_and_gets_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    with judge_server.running(judge_server.longer) as server:
        judge = opened(url=server.url, token_variable="JUDGE_TOKEN", concurrency=2)
        assert both_orders(judge, PAIRS).second_won == (0.0, 1.0, 0.5)
    asked = {(one["prompt"], one["first"], one["second"]) for one in server.asked}
    assert {("q0", "aaa", "b"), ("q0", "b", "aaa")} <= asked
    assert len(server.asked) == 6
    assert all(one["Authorization"] == "Bearer s3cret" for one in server.headers)
    assert judge.name == server.url


def test_what_passes_is_tried_again() -> None:
    replies = iter([(503, b"busy"), (429, b""), winner("first"), winner("second")])
    with judge_server.running(lambda request: next(replies)) as server:
        verdicts = both_orders(opened(url=server.url, concurrency=1), PAIRS[:1])
    assert verdicts.second_won == (0.0,)
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("reply", "asked", "problem"),
    [
        ((200, b"<html><h1>Sign in</h1></html>"), 1, "answered with text/plain that is no JSON"),
        ((200, b'{"winner": "both"}'), 1, 'answered the winner "both", and only "first", "second" and "tie" can win'),
        ((200, b"[]"), 1, "answered with a JSON list, not with an object"),
        ((200, b'{"winner": []}'), 1, r"answered the winner \[\]"),
        ((200, b'{"score": 1}'), 1, "answered the winner null"),
        ((500, b"x"), 3, r"answered 500 Internal Server Error after 3 attempts; is the service up\?"),
        ((401, b"x"), 1, "answered 401 Unauthorized$"),
        ((302, b""), 1, "answered 302 Found, and redirects are not followed"),
    ],
    ids=["html", "other winner", "list", "odd winner", "no winner", "500", "401", "redirect"],
)
def test_what_is_no_verdict_is_one_line_and_never_a_tie(
    reply: judge_server.Reply, asked: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    with judge_server.running(lambda request: reply) as server:
        judge = opened(url=server.url, attempts=3, concurrency=1, token_variable="JUDGE_TOKEN")
        with pytest.raises(EvaluationFailed, match=problem) as caught:
            judge.prefer(PAIRS, silent)
    assert len(server.asked) == asked  # and none for the other pairs
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_judge_that_hangs_is_given_up() -> None:
    release = threading.Event()

    def hang(request: dict[str, Any]) -> judge_server.Reply:
        release.wait(timeout=60)
        return winner("tie")

    with judge_server.running(hang) as server:
        judge = opened(url=server.url, attempts=2, timeout_s=0.2, concurrency=1)
        with pytest.raises(EvaluationFailed, match=r"did not answer within 0\.2 s after 2 attempts"):
            judge.prefer(PAIRS[:1], silent)
        release.set()


def test_a_judge_that_is_not_there() -> None:
    with judge_server.running(judge_server.longer) as server:
        url = server.url
    with pytest.raises(
        EvaluationFailed, match=r"cannot be reached \(Connection refused\) after 1 attempt; is the service up\?"
    ):
        opened(url=url, attempts=1).prefer(PAIRS, silent)


def test_the_token_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    with pytest.raises(ValueError, match="token_variable = JUDGE_TOKEN: this variable is not set; export it"):
        opened(url="http://127.0.0.1:1", token_variable="JUDGE_TOKEN")


@pytest.mark.parametrize("token", ["s3c\nret", "s3c\r\nret: x", "s3cr\u00e9t", "s3c ret"])
def test_a_token_that_no_header_can_carry_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", token)
    with pytest.raises(ValueError, match="token_variable = JUDGE_TOKEN: this variable holds no token") as caught:
        opened(url="http://127.0.0.1:1", token_variable="JUDGE_TOKEN")
    assert "s3c" not in str(caught.value)


def test_a_line_end_behind_a_token_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret\n")
    assert opened(url="http://127.0.0.1:1", token_variable="JUDGE_TOKEN")._headers["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(
    "url", ["http://me:pw@judge.example", "ftp://judge.example", "judge.example/x", "http://judge.example/?key=x"]
)
def test_addresses_with_secrets_or_of_another_kind_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"holds a user or a password|not an address of a service|holds a query"):
        JudgeConfig(url=url)


@pytest.mark.parametrize("given", [{}, {"model": "m", "function": "a:b"}, {"model": "m", "arguments": {"a": 1}}])
def test_a_judge_is_one_thing(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"exactly|one of|arguments are for a function"):
        JudgeConfig(**given)
