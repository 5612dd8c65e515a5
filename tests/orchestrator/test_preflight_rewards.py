"""What preflight refuses of reward models and services, on real folders; what a plan and a resume know of them."""

import json
import shutil
from pathlib import Path

import pytest
from orchestrator_folders import sections, write_model, write_rows, write_tokenizer

from orchestrator import commands, preflight
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.inputs import same_inputs
from orchestrator.recipe import RecipeError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    root = tmp_path_factory.mktemp("folders")
    write_model(root / "policy")
    write_model(root / "reward")
    config = LlamaConfig.from_pretrained(root / "reward", num_labels=1, architectures=None)
    LlamaForSequenceClassification(config).save_pretrained(root / "reward")
    write_rows(root / "words.jsonl", [{"prompt": "abc"}])
    return root


@pytest.fixture
def recipe(made, tmp_path):
    def recipe(*rewards, **changes) -> Recipe:
        standard = {
            "model__path": str(made / "policy"),
            "data__path": str(made / "words.jsonl"),
            "run__root": str(tmp_path / "runs"),
            "scoring__rewards": list(rewards),
        }
        return Recipe.model_validate(sections(**{**standard, **changes}))

    return recipe


@pytest.fixture
def copy(made, tmp_path):
    def copy(name="reward", to="copy") -> Path:
        return Path(shutil.copytree(made / name, tmp_path / to))

    return copy


def model(*paths, **settings):
    where = {"path": str(paths[0])} if len(paths) == 1 else {"paths": [str(path) for path in paths]}
    return {"name": "helpful", "kind": "model", **where, **settings}


def lines_of(recipe):
    with pytest.raises(RecipeError) as caught:
        preflight.check(recipe)
    assert not any("\n" in line for line in caught.value.lines)
    return list(caught.value.lines)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_good_reward_model_passes_and_counts_in_the_plan(recipe, made, copy):
    pair = model(made / "reward", copy())
    preflight.check(recipe(pair))
    bare = recipe({"name": "l", "kind": "length"})
    plans = {
        name: preflight.plan(one).memory_bytes["scoring"]
        for name, one in {
            "bare": bare,
            "one": recipe(model(made / "reward", precision="float32")),
            "two": recipe(pair),
        }.items()
    }
    one = plans["one"] - plans["bare"]
    assert one > 0
    assert plans["two"] - plans["bare"] == one / 2  # two models at one byte a parameter against one at four


def test_a_folder_that_is_not_there_yet(recipe, tmp_path):
    (line,) = lines_of(recipe(model(tmp_path / "none")))
    assert line.startswith(f"scoring.rewards.0.path = {tmp_path / 'none'}: there is no such folder; make it with")


def test_a_language_model_is_refused(recipe, made):
    (line,) = lines_of(recipe(model(made / "reward", made / "policy")))
    assert line.startswith(f"scoring.rewards.0.paths.1 = {made / 'policy'}: is no reward model (LlamaForCausalLM")


def test_another_tokenizer_is_refused_unless_it_reads_the_text(recipe, copy):
    folder = copy()
    write_tokenizer(folder, letters="zyxwvutsrqponmlkjihgfedcba .")
    (line,) = lines_of(recipe(model(folder)))
    assert line.startswith(f"scoring.rewards.0.path = {folder}: its tokenizer is not that of model.path = ")
    assert "scoring.rewards.0.retokenise=true" in line
    preflight.check(recipe(model(folder, retokenise=True)))


def test_a_special_token_of_another_number_is_another_tokenizer(recipe, copy):
    folder = copy()
    edit(folder / "tokenizer_config.json", eos_token="<bos>")
    (line,) = lines_of(recipe(model(folder)))
    assert "eos_token_id is 2 in the one and 1 in the other" in line


def test_a_context_too_short_for_the_policy(recipe, copy):
    folder = copy()
    edit(folder / "config.json", max_position_embeddings=32)
    (line,) = lines_of(recipe(model(folder)))
    assert "its context has 32 tokens, fewer than the 64 that the policy uses" in line
    preflight.check(recipe(model(folder), generation__engine={"max_model_tokens": 32}))


def test_a_missing_tokenizer_is_one_line(recipe, copy):
    folder = copy()
    (folder / "tokenizer.json").unlink()
    (line,) = lines_of(recipe(model(folder)))
    assert line.startswith(f"scoring.rewards.0.path = {folder}: its tokenizer cannot be read")


def test_what_a_service_needs_is_there(recipe, tmp_path, monkeypatch):
    judge = {"name": "judge", "kind": "http", "url": "https://judge/x"}
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    given = {"token_variable": "JUDGE_TOKEN", "ca_file": str(tmp_path / "none")}
    lines = lines_of(recipe(judge | given))
    assert [line.partition(": ")[0] for line in lines] == [
        f"scoring.rewards.0.ca_file = {tmp_path / 'none'}",
        "scoring.rewards.0.token_variable = JUDGE_TOKEN",
    ]
    monkeypatch.setenv("JUDGE_TOKEN", "x")
    (tmp_path / "none").write_text("no certificate")
    (line,) = lines_of(recipe(judge | given))
    assert line.startswith(f"scoring.rewards.0.ca_file = {tmp_path / 'none'}: holds no certificates (")
    assert line.endswith("); give a PEM file")
    preflight.check(recipe(judge | {"token_variable": "JUDGE_TOKEN"}))


def test_a_reward_model_may_not_change_under_a_run(recipe, copy, tmp_path):
    folder = copy()
    run = RunFolder(tmp_path / "runs" / "trial")
    run.path.mkdir(parents=True)
    same_inputs(run, recipe(model(folder)), prompts={})
    same_inputs(run, recipe(model(folder)), prompts={})
    edit(folder / "config.json", rms_norm_eps=0.5)
    with pytest.raises(RecipeError, match=r"scoring.rewards.0.path = .*: its content has changed since the run began"):
        same_inputs(run, recipe(model(folder)), prompts={})


def test_a_dry_run_says_where_a_run_is_there_already(recipe, capsys, monkeypatch):
    given = recipe({"name": "l", "kind": "length"})
    monkeypatch.setattr("orchestrator.recipe.load", lambda path, overrides: given)
    folder = RunFolder(Path(given.run.root) / given.run.name)
    commands.plan(Path("trial.yaml"), [], as_json=False)
    assert "holds a run already" not in capsys.readouterr().out
    folder.path.mkdir(parents=True)
    folder.recipe.touch()
    commands.plan(Path("trial.yaml"), [], as_json=False)
    line = f"run.name = {given.run.name}: {folder.path} holds a run already; `headrace resume {folder.path}` goes on with it"
    assert line in capsys.readouterr().out
