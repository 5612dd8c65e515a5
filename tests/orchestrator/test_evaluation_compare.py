"""From answers to figures, doubts, gates and reports, without an engine: the core as its users drive it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation_records import finished, plan, policy, question
from orchestrator_folders import sections, write_rows

from orchestrator import recipe as recipes
from orchestrator import yamlfile
from orchestrator.errors import EvaluationFailed
from orchestrator.evaluation import contamination, report
from orchestrator.evaluation.check import refuse
from orchestrator.evaluation.config import EvaluationConfig
from orchestrator.evaluation.evaluator import Evaluator
from orchestrator.evaluation.gates import judge_gates
from orchestrator.evaluation.keys import is_figure
from orchestrator.evaluation.kl import kl_k1
from orchestrator.evaluation.outcome import Outcome, conclude
from orchestrator.evaluation.page import render
from orchestrator.evaluation.verdict import headroom, verdict
from score_cluster.answers import Answers, Scores
from score_cluster.config import ScoringConfig
from score_cluster.lengths import LengthReward

EXACT = {"function": "score_cluster.functions:exact_match"}
SCORING = ScoringConfig.model_validate(
    {
        "rewards": [
            {"name": "right", "function": "score_cluster.functions:exact_match", "weight": 2.0},
            {"name": "short", "kind": "length", "limit_tokens": 2, "per_token": 0.5},
        ],
        "constraints": [{"component": "right", "threshold": 0.5, "multiplier": 4.0}],
    }
)
QUESTIONS = [
    question("q0", category="easy", metadata={"answer": "ab"}),
    question("q1", category="hard", metadata={"answer": "cd"}),
]


@pytest.fixture
def outcome() -> Outcome:
    """Two prompts, two samples, judged by the recipe's reward: the second policy is right three times of four."""
    made = plan(QUESTIONS, samples=2, scoring=SCORING, category_column="kind")
    evaluator = Evaluator(made)
    first = evaluator.score("runs/old", [[finished("xx"), finished("ab")], [finished("yy"), finished("yy", cut=True)]])
    second = evaluator.score("runs/new", [[finished("ab"), finished("ab")], [finished("cd"), finished("<b>ef")]])
    return conclude(evaluator.compare(first, [second]), made, recipe=None, gates=["win_rate>=0.7", "length<=3.5"])


def test_figures_by_hand(outcome: Outcome) -> None:
    old, new = (outcome.comparison.figures[f"runs/{name}"] for name in ("old", "new"))
    # Components: right 0/1; three tokens (two letters and the end) are one beyond the limit: -0.5 each; cut: none beyond.
    # Totals 2 right + short - 4 max(0, 0.5 - right): wrong -0.5 - 2, right 2 - 0.5, cut wrong 0 - 2, six tokens -2 - 2.
    assert old["reward"] == pytest.approx((-2.5 + 1.5 - 2.5 - 2.0) / 4)
    assert new["reward"] == pytest.approx((1.5 + 1.5 + 1.5 - 4.0) / 4)
    assert (old["reward.right"], new["reward.right"]) == (0.25, 0.75)
    assert new["reward_gain"] == pytest.approx(0.125 + 1.375)
    # q0: against -2.5 both win, against 1.5 both tie: (2 + 2 / 2) / 4. q1: 1.5 beats both, -4 none: 2 / 4.
    assert outcome.comparison.won["runs/new"] == (0.75, 0.5)
    assert new["win_rate"] == new["reward_win_rate"] == 0.625
    assert new["ties"] == 0.25
    assert new["p_value"] == 1.0  # one prompt won, one even
    assert (old["length"], old["length_p95"], new["length"]) == ((3 + 3 + 3 + 2) / 4, 3, (3 + 3 + 3 + 6) / 4)
    assert new["length_ratio"] == pytest.approx(15 / 11)
    assert (old["truncated"], new["truncated"]) == (0.25, 0.0)
    assert (old["unique"], new["unique"]) == (0.75, 0.75)
    # Words: xx ab yy yy and ab ab cd <b>ef.
    assert (old["distinct_1"], new["distinct_1"], new["distinct_1_ratio"]) == (0.75, 0.75, 1.0)
    assert "pass@1" not in new
    easy, hard = (outcome.comparison.categories["runs/new"][label] for label in ("easy", "hard"))
    assert (easy["win_rate"], easy["score"], easy["length"]) == (0.75, pytest.approx(1.5), 3.0)
    assert (hard["win_rate"], hard["score"], hard["length"]) == (0.5, pytest.approx((1.5 - 4.0) / 2), 4.5)
    assert outcome.comparison.categories["runs/old"]["hard"]["prompts"] == 1


def test_every_figure_is_explained(outcome: Outcome) -> None:
    names = {name for figures in outcome.comparison.figures.values() for name in figures}
    assert {name for name in names if not is_figure(name)} == set()
    assert not any(map(is_figure, ("win_rat", "distinct_5", "pass@2", "reward.", "")))


def test_a_verifier_gives_pass_at_k_and_one_policy_is_enough() -> None:
    made = plan(QUESTIONS, samples=8, judge=EXACT)
    evaluator = Evaluator(made)
    refuse(made, policies=1)
    drawn = [[finished("ab" if s < 2 else "x") for s in range(8)], [finished("x")] * 8]
    found = conclude(evaluator.compare(evaluator.score("p", drawn), []), made, recipe=None, gates=["pass@8>=0.5"])
    figures = found.comparison.figures["p"]
    assert (figures["pass@1"], figures["pass@8"], figures["score"]) == (0.125, 0.5, 0.125)
    assert "win_rate" not in figures
    assert "pass@64" not in figures
    assert found.passed


def test_one_policy_and_a_judge_of_pairs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lonely_judges.py").write_text("def f(*, prompt, first, second, metadata):\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = plan(QUESTIONS, judge={"function": "lonely_judges:f"})
    evaluator = Evaluator(made)
    refuse(made, policies=2)
    with pytest.raises(ValueError, match=r"compares two answers; name a second policy, or .* pass@k"):
        refuse(made, policies=1)
    first, second = (evaluator.score(name, [[finished("a")], [finished("b")]]) for name in "pq")
    figures = evaluator.compare(first, [second]).figures["q"]
    assert (figures["win_rate"], figures["ties"], figures["self_disagreement"]) == (0.5, 1.0, 1.0)
    assert "score" not in figures


def test_totals_that_mean_something_within_a_group_only_need_a_judge() -> None:
    scoring = SCORING.model_validate({**SCORING.model_dump(), "combine": {"kind": "normalised"}})
    with pytest.raises(ValueError, match=r"judge = null: totals of scoring\.combine = normalised .* name a judge"):
        refuse(plan(QUESTIONS, scoring=scoring), policies=2)
    assert Evaluator(plan(QUESTIONS, scoring=scoring, judge=EXACT)).judge == EXACT["function"]
    with pytest.raises(ValueError, match="without a recipe there is no reward to judge by"):
        refuse(plan(QUESTIONS), policies=2)


def test_kl_by_hand() -> None:
    import numpy as np

    # (-1 - 2) - (-2 - 4) = 3
    assert kl_k1(np.array([-1, -2], np.float32), np.array([-2, -4], np.float32)) == 3.0


def test_gates(outcome: Outcome) -> None:
    assert [(one.gate, one.policy, one.passed) for one in outcome.gates] == [
        ("win_rate>=0.7", "runs/new", False),
        ("length<=3.5", "runs/new", False),
    ]
    assert not outcome.passed
    figures = {"p": {"win_rate": 0.7, "pass@8": 0.5, "reward.a b": 1.0}}
    for gate, passed in {
        "win_rate>=0.7": True,
        "win_rate > 0.7": False,
        "pass@8<1e0": True,
        "reward.a b<=-1": False,
    }.items():
        assert [one.passed for one in judge_gates([gate], figures)] == [passed]
    with pytest.raises(ValueError, match=r"--gate kl<=3: p has no such figure; it has pass@8, reward"):
        judge_gates(["kl<=3"], figures)


@pytest.mark.parametrize(
    "gate", ["win_rate", "win_rate=0.7", ">=0.7", "win_rate>=high", "win_rate>=0.7>=1", "win_rat>=0.7"]
)
def test_what_is_no_gate_is_refused_with_the_recipe(gate: str) -> None:
    with pytest.raises(
        ValueError, match=r"is no condition; write KEY>=VALUE|names no figure; the figures are win_rate"
    ):
        EvaluationConfig(path="p", gates=(gate,))


@pytest.mark.parametrize(
    ("rate", "low", "high", "words"),
    [
        (0.70, 0.66, 0.74, "strongly better"),
        (0.60, 0.56, 0.64, "meaningfully better"),
        (0.54, 0.51, 0.57, "slightly better"),
        (0.70, 0.45, 0.95, "no difference shown"),
        (0.30, 0.26, 0.34, "strongly worse"),
        (0.40, 0.36, 0.44, "meaningfully worse"),
    ],
)
def test_verdict_in_words(rate: float, low: float, high: float, words: str) -> None:
    figures = {"win_rate": rate, "win_rate_low": low, "win_rate_high": high, "p_value": 1e-5}
    assert verdict(figures).startswith(f"{words}: wins {rate:.1%}")
    assert verdict(figures).endswith("sign test p = 1e-05)")


def test_a_handful_of_prompts_shows_nothing() -> None:
    # three prompts, all won: every resample says 100 %, and a fair coin falls so one time of four
    figures = {"win_rate": 1.0, "win_rate_low": 1.0, "win_rate_high": 1.0, "p_value": 0.25}
    assert verdict(figures).startswith("no difference shown: wins 100.0%")
    worse = {"win_rate": 0.0, "win_rate_low": 0.0, "win_rate_high": 0.0, "p_value": 0.25}
    assert verdict(worse).startswith("no difference shown: wins 0.0%")


def test_a_total_that_is_no_number_is_no_score() -> None:
    rewards = [{"name": "right", "function": "score_cluster.functions:exact_match", "weight": 1e308}]
    made = plan(QUESTIONS, samples=2, scoring=ScoringConfig.model_validate({"rewards": rewards}))
    answers = [[finished("xx"), finished("ab")], [finished("yy"), finished("cd")]]
    problem = "reward 'total' failed on group 0: the components of completion 1 combine to 1e+308"
    with pytest.raises(EvaluationFailed, match=re.escape(problem)):
        Evaluator(made).score("p", answers)


def test_sources_see_answers_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Answers] = []

    def score(self: LengthReward, batch: Sequence[Answers]) -> list[Scores]:
        asked.extend(batch)
        return [Scores(values=tuple(float(len(tokens)) for tokens in one.tokens)) for one in batch]

    monkeypatch.setattr(LengthReward, "score", score)
    rows = [[finished("x"), finished("xyz", cut=True)], [finished("yy"), finished("")]]
    found = Evaluator(plan(QUESTIONS, samples=2, scoring=SCORING)).score("p", rows)
    assert [one.finished for one in asked] == [(True, False), (True, True)]
    assert [one.completions for one in asked] == [("x", "xyz"), ("yy", "")]
    assert [(one.prompt, one.prompt_tokens.tolist(), one.max_tokens) for one in asked] == [
        ("q0", [ord("q"), ord("0")], 16),
        ("q1", [ord("q"), ord("1")], 16),
    ]
    assert [[one.components["short"] for one in row] for row in found.scored] == [[2.0, 3.0], [3.0, 1.0]]


def test_a_source_that_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(plan(QUESTIONS, scoring=SCORING))
    monkeypatch.setattr(LengthReward, "score", lambda self, batch: 1 / 0)
    with pytest.raises(EvaluationFailed, match="reward 'short' failed on group 0: ZeroDivisionError"):
        evaluator.score("p", [[finished("xx")], [finished("yy")]])


def test_headroom_of_a_verifier() -> None:
    assert list(headroom("p", {"pass@1": 0.4, "pass@64": 0.61})) == []
    assert list(headroom("p", {"pass@1": 0.4})) == []
    assert "pass@64 is 1.25 of pass@1" in next(headroom("p", {"pass@1": 0.4, "pass@64": 0.5}))
    assert "take harder ones" in next(headroom("p", {"pass@1": 0.7, "pass@64": 1.0}))
    assert "right hardly ever" in next(headroom("p", {"pass@1": 0.0, "pass@64": 0.0}))


def test_seen_prompts_by_hand() -> None:
    words = " ".join(f"w{i}" for i in range(17))  # ten 8-grams
    nine, eight = words.rpartition(" ")[0], words.rpartition(" w15")[0]  # nine and eight of them
    assert contamination.seen([words], [nine.upper()]) == [0]
    assert contamination.seen([words], [eight]) == []  # 80 % is not above 80 %
    assert contamination.seen([words], [eight, words.partition(" ")[2]]) == [0]  # together they hold all
    assert contamination.seen(["Tell me.", "tell me a story"], ["tell  ME.", "please tell me a story"]) == [0]
    assert contamination.seen([""], [""]) == []


def test_training_texts_of_a_recipe_warn(tmp_path: Path) -> None:
    write_rows(tmp_path / "d.jsonl", [{"prompt": "seen one"}, {"prompt": "other"}])
    write_rows(tmp_path / "s.jsonl", [{"prompt": "x", "completion": "seen two", "turns": [{"content": "seen three"}]}])
    write_rows(tmp_path / "p.jsonl", [{"prompt": "seen four", "chosen": "x", "rejected": "y"}])
    stages = {"sft": {"base": "b", "path": "s.jsonl"}, "reward": {"path": "p.jsonl", "out": "rm"}}
    (tmp_path / "r.yaml").write_text(yamlfile.render(sections(**stages)))
    recipe = recipes.load(tmp_path / "r.yaml")
    prompts = ["new", "seen one", "seen two", "seen three", "seen four"]
    assert contamination.warning(recipe, prompts).startswith("4 of 5 prompts share more than 80%")
    assert '"seen one"' in contamination.warning(recipe, prompts)
    assert contamination.warning(recipe, ["new"]) == ""
    write_rows(tmp_path / "s.jsonl", ["no json"])
    assert "s.jsonl: a line is not JSON" in contamination.warning(recipe, ["new"])
    (tmp_path / "s.jsonl").unlink()
    assert "cannot be told" in contamination.warning(recipe, ["new"])


def test_text_json_and_page_say_the_same(outcome: Outcome) -> None:
    text = "\n".join(report.lines(outcome))
    assert "2 prompts x 2 answers at temperature 1, judged by the recipe's reward" in text
    assert "new against old: no difference shown: wins 62.5%" in text
    assert "gate win_rate>=0.7 for new: 0.625, FAILED" in text
    told: dict[str, Any] = json.loads(json.dumps(report.content(outcome, answers=True)))
    assert told["figures"]["runs/new"]["win_rate"] == 0.625
    assert told["gates"][0] == {"gate": "win_rate>=0.7", "policy": "runs/new", "value": 0.625, "passed": False}
    answers = told["answers"][1]["answers"]["runs/old"]
    assert [(one["text"], one["tokens"], one["finish_reason"]) for one in answers] == [
        ("yy", 3, "stop"),
        ("yy", 2, "length"),
    ]
    assert "answers" not in report.content(outcome, answers=False)
    page = render(outcome)
    assert "&lt;b&gt;" not in page  # of the second answers only the first is shown
    assert page.count("<svg") == 5  # win rate, tokens, score, reward, categories
    assert "62.5%" in page
    assert "http" not in page


def test_texts_of_policies_are_escaped_in_the_page() -> None:
    made = plan([question("<i>q")], judge=EXACT, scoring=None)
    comparison = Evaluator(made).compare(policy("<p>", [[("<script>", 0.0)]]), [])
    page = render(conclude(comparison, made, recipe=None))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<i>q" not in page
