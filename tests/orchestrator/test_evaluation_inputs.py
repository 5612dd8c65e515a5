"""What a user can get wrong at `headrace eval`: one line each, exit code 2, and no engine started for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from orchestrator_folders import sections, write_model, write_rows

from orchestrator import cli, yamlfile
from orchestrator import recipe as recipes
from orchestrator.evaluation import engine_process
from orchestrator.evaluation.command import judge_of, plan_for
from orchestrator.evaluation.policies import by_architecture, find_policies
from orchestrator.folder import RunFolder

JUDGE = "--judge score_cluster.functions:exact_match"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("inputs")
    write_model(place / "m")
    write_model(place / "other", context=32)
    write_model(place / "wider", vocabulary=40)
    write_model(place / "renumbered", letters="zyxwvutsrqponmlkjihgfedcba .")
    write_model(place / "empty", weights=False)
    write_model(place / "endless")
    (place / "endless" / "generation_config.json").write_text('{"eos_token_id": [1, 5]}')
    write_rows(place / "held.jsonl", [{"prompt": f"say {letter}", "kind": "k", "answer": "x"} for letter in "abc"])
    write_rows(place / "long.jsonl", [{"prompt": "a" * 60}])
    write_rows(place / "bad.jsonl", ['{"prompt": 1}', "no json"])
    write_rows(place / "d.jsonl", [{"prompt": "abc"}])
    (place / "none.yaml").write_text(yamlfile.render(sections()))
    (place / "bare.yaml").write_text(yamlfile.render(sections(evaluation={"path": "held.jsonl"})))
    run = RunFolder(place / "runs" / "trial")
    run.create()
    run.write(run.recipe, recipes.dump(recipes.load(place / "bare.yaml", [f"run.root={place / 'runs'}"])))
    (place / "pairwise.py").write_text("def f(*, prompt, first, second, metadata):\n    return 0\n")
    return place


MISTAKES = [
    ("", "Missing argument 'POLICY...", "--help"),
    ("run.steps=2", "POLICY = (missing)", "name model folders or runs"),
    ("nowhere m --prompts held.jsonl", "POLICY = nowhere: no model folder (with a config.json) and no run there", "RUN@STEP or RUN@best"),
    ("m m --prompts held.jsonl", "POLICY = m: is named twice", "name policies that differ"),
    (f"m wider --prompts held.jsonl {JUDGE}", "POLICY = wider: its vocabulary has 40 tokens, that of m has 31", "one family"),
    (f"m renumbered --prompts held.jsonl {JUDGE}", "POLICY = renumbered: its tokenizer numbers tokens otherwise", "one family"),
    (f"m endless --prompts held.jsonl {JUDGE}", "POLICY = endless: its answers end at token 5, those of m do not", "name it first"),
    (f"m empty --prompts held.jsonl {JUDGE}", "empty: holds no model.safetensors", "put the weights there"),
    ("m", "evaluation.path = (missing)", "set evaluation.path"),
    (f"m other {JUDGE} --samples 2", "evaluation.path = (missing)", "set evaluation.path"),
    (f"m other --prompts nowhere.jsonl {JUDGE} generation.max_tokens=8", "evaluation.path = ", "nowhere.jsonl"),
    (f"m other --prompts bad.jsonl {JUDGE} generation.max_tokens=8", "evaluation.prompt_column = prompt: line 1 of ", "holds 1 there, not text"),
    (f"m other --prompts long.jsonl {JUDGE} generation.max_tokens=8", "long.jsonl: line 1 has a prompt of 61 tokens, and 56 fit", "shorten it"),
    (f"m other --prompts held.jsonl {JUDGE} generation.max_tokens=64", "evaluation.max_tokens = 64: leaves no room for a prompt", "below"),
    (f"m other --prompts held.jsonl {JUDGE} generation.max_tokens=8 evaluation.category_column=sort", "evaluation.category_column = sort: ", "only prompt, kind, answer"),
    (f"m other --prompts held.jsonl {JUDGE} evaluation.sample=2", "evaluation.sample = 2: there is no such key", "samples"),
    (f"m other --prompts held.jsonl {JUDGE} scoring.workers=2", "scoring = ", "--recipe"),
    (f"m other --prompts held.jsonl {JUDGE} --gate win_rate", "--gate: 'win_rate' is no condition", "win_rate>=0.7"),
    (f"m other --prompts held.jsonl {JUDGE} --gate win_rat>=0.7", "--gate: 'win_rat>=0.7' names no figure", "win_rate_low"),
    (f"m other --prompts held.jsonl {JUDGE} --out nowhere/o.json", "--out nowhere/o.json: cannot be written", "name a file"),
    (f"m other --prompts held.jsonl {JUDGE} --html m", "--html m: cannot be written", "name a file"),
    ("m other --prompts held.jsonl generation.max_tokens=8", "evaluation.judge = null: without a recipe", "--judge"),
    ("m other --prompts held.jsonl generation.max_tokens=8 --judge nowhere", "nowhere: there is no such folder", "module:function, or a URL"),
    ("m other --prompts held.jsonl generation.max_tokens=8 --judge m", "m: is no reward model (LlamaForCausalLM with", "with one label"),
    ("m other --prompts held.jsonl generation.max_tokens=8 --judge json:nothing", "module 'json' has no such function", "it has"),
    ("m other --prompts held.jsonl generation.max_tokens=8 --judge http://me:pw@host/", "evaluation.judge", "token_variable"),
    ("m --prompts held.jsonl generation.max_tokens=8 --judge pairwise:f", "POLICY = (one only): judge pairwise:f compares two answers", "pass@k"),
    ("m other --recipe none.yaml", "evaluation = null: the recipe names no held-out prompts", "--prompts"),
    ("runs/trial m", "POLICY = runs/trial: ", "published no weights yet; remedy: let it train a step"),
    ("runs/trial@best m", "POLICY = runs/trial@best: ", "evaluation.interval_steps"),
    ("runs/trial@7 m", "POLICY = runs/trial@7: ", "keeps no such version (kept: none); name one of these"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "problem", "remedy"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_mistakes_are_one_line(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    problem: str,
    remedy: str,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(engine_process, "EngineProcess", never)
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.setattr("sys.argv", ["headrace", "eval", *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said.err
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert all(one.startswith("headrace: ") for one in lines), said.err
    assert any(problem in one and remedy in one for one in lines), said.err
    assert "Traceback" not in said.err
    assert "me:pw" not in said.err


def test_what_a_judge_is_its_words_say(tmp_path: Path) -> None:
    assert judge_of("https://judge.example/x") == {"url": "https://judge.example/x"}
    assert judge_of("package.module:function") == {"function": "package.module:function"}
    assert judge_of("runs/reward") == {"model": "runs/reward"}
    (tmp_path / "a:b").mkdir()
    assert judge_of(str(tmp_path / "a:b")) == {"model": str(tmp_path / "a:b")}


def test_policies_share_an_engine_by_their_architecture(workplace: Path) -> None:
    policies = find_policies([str(workplace / name) for name in ("m", "other", "renumbered")])
    groups = [[Path(one.name).name for one in group] for group in by_architecture(policies)]
    assert groups == [["m", "renumbered"], ["other"]]


def test_a_plan_without_a_recipe_takes_the_folders_own_type(workplace: Path) -> None:
    policies = find_policies([str(workplace / "m")])
    path = f"evaluation.path={workplace / 'held.jsonl'}"
    plan = plan_for(policies, None, [path, "generation.max_tokens=8", "evaluation.limit=2"])
    assert plan.engine.dtype == "float32"
    assert plan.engine.max_model_tokens == len("say a") + 1 + 8
    assert [one.text for one in plan.questions] == ["say a", "say b"]
    assert plan.reference == str(workplace / "m")
    assert plan.drawing.stop_token_ids == (1,)
    assert json.loads(json.dumps(plan.questions[0].metadata))["kind"] == "k"
