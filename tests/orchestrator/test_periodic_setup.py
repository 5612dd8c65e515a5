"""What a recipe with evaluation during the run asks for and is refused, before anything starts. Two seconds."""

import pytest
from orchestrator_folders import sections, write_model, write_rows
from orchestrator_recipes import a_recipe
from pydantic import ValidationError

from orchestrator.config import Recipe, changed_keys, fingerprint, resume_violations
from orchestrator.periodic import check
from orchestrator.placement import worker_asks
from score_cluster.reward_config import NormalisedConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("setup")
    write_model(folder / "m")
    write_rows(folder / "held_out.jsonl", [{"prompt": "abc"}, {"prompt": "bca"}])
    write_rows(folder / "long.jsonl", [{"prompt": "a" * 60}])
    return folder


def recipe_of(folder, **evaluation):
    path = str(folder / evaluation.pop("path", "held_out.jsonl"))
    section = {"path": path, "interval_steps": 4} | evaluation
    return Recipe.model_validate(sections(model__path=str(folder / "m"), evaluation=section))


def test_only_with_an_interval_does_a_run_evaluate_itself(folder):
    assert recipe_of(folder).evaluates_itself
    for recipe in (recipe_of(folder, interval_steps=None), a_recipe()):
        assert not recipe.evaluates_itself
        assert check.problems(recipe) == []
        assert check.paths(recipe) == {}
        assert "eval-0" not in [ask.name for ask in worker_asks(recipe, gpus=True)]


def test_the_evaluator_has_a_place_like_an_engines(folder):
    recipe = recipe_of(folder)
    gen, evaluator, score = worker_asks(recipe, gpus=True)
    assert (evaluator.name, evaluator.key) == ("eval-0", "ray.resources.evaluation")
    assert evaluator.bundles == gen.bundles == ({"GPU": 1.0, "CPU": 2.0},)
    assert score.name == "score-0"


def test_what_is_measured_may_change_at_a_resume(folder):
    old, new = recipe_of(folder), recipe_of(folder, interval_steps=2, limit=5, metric="reward")
    assert changed_keys(old, new)
    assert resume_violations(old, new) == []
    assert resume_violations(old, recipe_of(folder, interval_steps=None)) == []
    assert fingerprint(old) == fingerprint(new)


def test_there_is_nothing_to_win_against_a_model_without_weights(folder):
    section = {"path": "p", "interval_steps": 4}
    changes = {"model__random_init": True, "scoring__reference": None}
    with pytest.raises(ValidationError, match=r"evaluation.metric = win_rate: model.random_init is true"):
        a_recipe(evaluation=section, **changes)
    with pytest.raises(ValidationError) as refusal:
        a_recipe(evaluation=section | {"metric": "reward"}, **changes)
    assert "evaluation.metric" not in str(refusal.value)


def test_what_the_evaluator_would_stumble_over_is_refused_before(folder):
    assert check.problems(recipe_of(folder)) == []
    (line,) = check.problems(recipe_of(folder, path="nowhere.jsonl"))
    assert line.startswith(f"evaluation.path = {folder}/nowhere.jsonl: ")
    (line,) = check.problems(recipe_of(folder, path="long.jsonl"))
    assert "61 tokens" in line
    lines = check.problems(recipe_of(folder, judge={"model": "/no/judge"}, reference="/no/reference"))
    assert [line.partition(" = ")[0] for line in lines] == ["evaluation.reference", "evaluation.judge.model"]
    (line,) = check.problems(recipe_of(folder, judge={"model": str(folder)}))
    assert line.startswith(f"evaluation.judge.model = {folder}: ")
    scoring = recipe_of(folder).scoring.model_copy(update={"combine": NormalisedConfig(kind="normalised")})
    (line,) = check.problems(recipe_of(folder).model_copy(update={"scoring": scoring}))
    assert line.startswith("evaluation.judge = null: totals of scoring.combine = normalised compare the samples of one")
    (line,) = check.problems(recipe_of(folder, judge={"function": "nowhere:prefers"}))
    assert line.startswith("evaluation.judge.function = nowhere:prefers: ")
    assert "\n" not in line
