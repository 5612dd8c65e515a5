"""Where PPO's critic starts from, and what preflight says of that folder."""

from pathlib import Path
from typing import Any

import pytest
from orchestrator_folders import sections, write_model, write_rows

from orchestrator import preflight
from orchestrator.config import Recipe
from orchestrator.critic import CriticFolder, critic_folder
from orchestrator.recipe import RecipeError, load
from train_cluster.model import published_parameters
from train_cluster.scalar import has_scalar_head, load_scalar, save_scalar_folder


def rewards(*folders: Any) -> list[dict[str, Any]]:
    """A rule, and a component of kind model for each folder, or list of folders."""
    models = [
        {"name": f"m{i}", "kind": "model", ("path" if isinstance(one, str) else "paths"): one}
        for i, one in enumerate(folders)
    ]
    return [{"name": "rule", "function": "score_cluster.functions:length_penalty"}, *models]


@pytest.mark.parametrize(
    ("changes", "path", "key"),
    [
        ({}, "m", "model.path"),
        ({"scoring__rewards": rewards("one")}, "one", "scoring.rewards.1.path"),
        ({"scoring__rewards": rewards(["first", "second"])}, "first", "scoring.rewards.1.paths.0"),
        ({"scoring__rewards": rewards("one", "two")}, "m", "model.path"),  # which of them would be a guess
        ({"scoring__rewards": [{**rewards("one")[1], "retokenise": True}]}, "m", "model.path"),  # reads other tokens
        (
            {"scoring__rewards": rewards("one"), "training__algorithm": {"critic": {"path": "own"}}},
            "own",
            "training.algorithm.critic.path",
        ),
    ],
)
def test_it_starts_from_what_knows_most(changes: dict[str, Any], path: str, key: str) -> None:
    assert critic_folder(Recipe.model_validate(sections(**changes))) == CriticFolder(path=path, key=key)


def test_grpo_has_none() -> None:
    assert critic_folder(Recipe.model_validate(sections(training__algorithm={"kind": "grpo"}))) is None


def test_its_path_is_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "run: {name: x, steps: 1}\nmodel: {path: m}\ndata: {path: d.jsonl}\ngeneration: {max_tokens: 8}\n"
        'scoring: {rewards: [{name: l, function: "score_cluster.functions:length_penalty"}]}\n'
        "training: {algorithm: {critic: {path: reward}}}\n"
    )
    found = critic_folder(load(tmp_path / "r.yaml"))
    assert found is not None
    assert found.path == str(tmp_path / "reward")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    write_model(root / "policy")
    write_model(root / "wide", vocabulary=40)
    write_model(root / "shuffled", letters="zyxwvutsrqponmlkjihgfedcba .")
    model = load_scalar(root / "policy", head="fresh", seed=1)
    save_scalar_folder(root / "reward", root / "policy", dict(published_parameters(model)))
    write_rows(root / "words.jsonl", [{"prompt": "abc"}, {"prompt": "hello"}])
    return root


def recipe(made: Path, **changes: Any) -> Recipe:
    given = {"model__path": str(made / "policy"), "data__path": str(made / "words.jsonl")}
    return Recipe.model_validate(sections(**given, run__root=str(made / "runs"), **changes))


def test_a_reward_model_fits_and_is_planned_for(made: Path) -> None:
    plan = preflight.plan(recipe(made, training__algorithm={"critic": {"path": str(made / "reward")}}))
    assert plan.critic == str(made / "reward")
    assert plan.critic_parameters == plan.parameters + 8  # its head
    assert plan.checkpoint_bytes == 12 * (plan.parameters + plan.critic_parameters)
    alone = preflight.plan(recipe(made, training__algorithm={"kind": "grpo"}))
    assert (alone.critic, alone.checkpoint_bytes) == (None, 12 * alone.parameters)
    assert plan.memory_bytes["trainer"] > alone.memory_bytes["trainer"]
    assert any("the policy, by GRPO" in line for line in alone.lines())
    assert has_scalar_head(made / "reward")
    assert not has_scalar_head(made / "policy")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "there is no such folder"),
        ("wide", "its vocabulary has 40 tokens, that of model.path"),
        ("shuffled", "its tokenizer numbers tokens otherwise"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(made: Path, name: str, reason: str) -> None:
    with pytest.raises(RecipeError) as caught:
        preflight.check(recipe(made, training__algorithm={"critic": {"path": str(made / name)}}))
    (line,) = caught.value.lines
    assert line.startswith(f"training.algorithm.critic.path = {made / name}: {reason}")
    assert "; give " in line
