"""`headrace reward train` before anything starts: what is refused, what is warned of, what goes on from what. 3 s."""

import json
from pathlib import Path
from typing import Any

import pytest
from orchestrator_folders import sections, write_model, write_rows

from orchestrator import recipe as recipes
from orchestrator import yamlfile
from orchestrator.config import Recipe
from orchestrator.recipe import RecipeError
from orchestrator.stages import reward
from orchestrator.stages.reward_inputs import examine

PAIRS = [{"prompt": f"say {word}", "chosen": f"{word}.", "rejected": "no"} for word in ("a", "b", "c", "d", "e", "f")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture
def recipe(tmp_path: Path, model: Path) -> Any:
    """Makes a recipe that is valid but for what is named; `pairs` are the rows of its file."""

    def make(*, pairs: list[Any] = PAIRS, base: Path | None = model, path: Path = model, **changes: Any) -> Recipe:
        write_rows(tmp_path / "pairs.jsonl", pairs)
        given: dict[str, Any] = {"path": "pairs.jsonl", "out": "reward", "held_out_share": 0.34, "warmup_steps": 0}
        given |= {"base": str(base)} if base else {}
        data = changes.pop("data", {"path": "d.jsonl"})
        content = sections(reward=given | changes, data=data, model__path=str(path), run__root=str(tmp_path / "runs"))
        (tmp_path / "r.yaml").write_text(yamlfile.render(content))
        return recipes.load(tmp_path / "r.yaml")

    return make


def lines_of(recipe: Recipe, **given: Any) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as error:
        examine(recipe, **given)
    return error.value.lines


def test_what_would_be_trained_on_what(recipe: Any, model: Path, tmp_path: Path) -> None:
    found = examine(recipe(base=None, batch_pairs=3, epochs=2))
    assert found.config.base == str(model)  # that of the recipe
    content = json.loads(json.dumps(found.as_dict()))
    assert (content["train_pairs"], content["held_out_pairs"], content["steps"]) == (4, 2, 4)
    assert content["longest_pair_tokens"] == 2 * 6 + 3 + 3  # <bos> and "say a", then "a." and "no" with their ends
    assert str(tmp_path / "reward") in found.lines()[0]
    assert "2 held-out pairs tell the accuracy only roughly" in found.warnings[0]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"pairs": [*PAIRS, {"prompt": "a", "chosen": "b", "rejected": "b"}]},
            "line 7: chosen and rejected are the same; ",
        ),
        ({"pairs": [*PAIRS, "{"]}, "line 7: not JSON"),
        ({"pairs": []}, "0 different prompts cannot be split"),
        ({"pairs": PAIRS[:1]}, "1 different prompts cannot be split"),
        ({"min_agreement": 0.9}, "no row has more than one annotator"),
        ({"out": "pairs.jsonl/reward"}, "pairs.jsonl is no folder that can be written to; set another reward.out"),
        ({"members": 5}, "reward.members = 5: 4 prompts are too few for 5 members; set reward.members lower"),
        ({"held_out_path": "nope.jsonl"}, "nope.jsonl: cannot be read (No such file or directory); name a JSONL file"),
        ({"base": Path("/nowhere")}, "reward.base = /nowhere: there is no such folder"),
        ({"data": {"path": "d", "chat_template": True}}, "data.chat_template = True: the tokenizer of reward.base"),
    ],
)
def test_a_mistake_is_a_line(recipe: Any, changes: dict[str, Any], line: str) -> None:
    found = lines_of(recipe(**changes))
    assert len(found) == 1
    assert line in found[0]
    assert " = " in found[0].split(": ")[0]


def test_no_section_and_a_result_that_is_there(recipe: Any, tmp_path: Path) -> None:
    without = recipe().model_copy(update={"reward": None})
    assert "add a reward section with path and out" in lines_of(without)[0]
    (tmp_path / "reward").mkdir()
    assert "exists, and the reward model is written there; remove it" in lines_of(recipe())[0]
    assert examine(recipe(), afresh=False).steps == 1


def test_rules_between_sections(recipe: Any, model: Path) -> None:
    with pytest.raises(RecipeError, match="is the folder of the model that it starts from, or that is reinforced"):
        recipe(out=str(model))
    with pytest.raises(RecipeError, match="whose weights would be thrown away"):
        recipe(base=None, random_init=True)


def test_what_is_left_out_is_warned_of(recipe: Any, tmp_path: Path) -> None:
    write_rows(tmp_path / "judged.jsonl", PAIRS[:2])
    votes = {"annotators": ["chosen", "rejected"]}
    pairs = [*PAIRS, PAIRS[0] | votes | {"prompt": "x"}, {"prompt": "a"}]
    found = examine(recipe(pairs=pairs, bad_pairs="skip", warmup_steps=9, held_out_path="judged.jsonl"))
    told = "\n".join(found.warnings)
    assert "1 of 8 rows are left out; the first: line 8: no column 'chosen', only prompt" in told
    assert "in 1 of 8 rows fewer than 70% of the annotators are for the chosen answer; these are left out" in told
    assert "2 pairs of reward.path have one of its prompts" in told
    assert "reward.warmup_steps = 9: there are 1 steps" in told


def test_what_was_made_from_something_else_is_not_gone_on_with(recipe: Any, tmp_path: Path) -> None:
    first = recipe()
    assert reward.state_of(first) == "new"
    with reward.stage_of(first, examine(first)).opened(restart=False):
        pass  # as one that was killed
    assert reward.state_of(first) == "begun"
    assert examine(recipe(eval_steps=3, out="other")).made_from == examine(first).made_from
    for changes in ({"dropout": 0.2}, {"pairs": PAIRS[:-1]}):
        other = recipe(**changes)
        refused = pytest.raises(RecipeError, match=r"^reward\.(dropout|path) = .* set it back, or discard .* --restart")
        with refused, reward.stage_of(other, examine(other)).opened(restart=False):
            raise AssertionError
    with reward.stage_of(other, examine(other)).opened(restart=True):
        pass


def test_a_result_is_known_by_what_it_was_made_from(recipe: Any, tmp_path: Path) -> None:
    one = recipe()
    identity = reward.stage_of(one, examine(one)).identity
    (tmp_path / "reward").mkdir()
    card = tmp_path / "reward" / "reward_card.json"
    card.write_text(json.dumps({"hashes": {"config_sha256": identity}}))
    assert reward.state_of(one) == "done"
    card.write_text(json.dumps({"hashes": {"config_sha256": "another"}}))
    with pytest.raises(RecipeError, match="was made from other pairs, settings or another base"):
        reward.state_of(one)
