"""The demo task: the same bytes each time, disjoint sets, an ordinary model folder, and an honest interval."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from orchestrator.recipe import load
from recipes.reverse import (
    HELD_OUT_WORDS,
    TRAIN_WORDS,
    WORD_LETTERS,
    WRONG_SHARE,
    app,
    data,
    write_model,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reverse")
    assert CliRunner().invoke(app, ["prepare", str(out)]).exit_code == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_sets_are_disjoint_and_hold_each_word_once(prepared: Path) -> None:
    words = [row["prompt"] for name in ("sft", "train", "heldout") for row in rows(prepared / f"{name}.jsonl")]
    assert len(words) == len(set(words))
    assert len(rows(prepared / "heldout.jsonl")) == HELD_OUT_WORDS == 512


def test_answers_are_reversed_and_most_supervised_ones_are_not(prepared: Path) -> None:
    assert all(row["answer"] == row["prompt"][-2::-1] for row in rows(prepared / "heldout.jsonl"))
    sft = rows(prepared / "sft.jsonl")
    wrong = sum(row["completion"] != row["prompt"][-2::-1] for row in sft) / len(sft)
    assert wrong == pytest.approx(WRONG_SHARE, abs=0.02)
    assert {len(row["completion"]) for row in sft} == {6}


def test_preparing_twice_writes_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["prepare", str(tmp_path)]).exit_code == 0
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 6
    assert all((tmp_path / file).read_bytes() == (prepared / file).read_bytes() for file in files)
    assert data(seed=1)["heldout"] != data(seed=2)["heldout"]


def test_the_tokenizer_is_one_of_single_characters(prepared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(prepared / "model")
    prompt, completion = (tokenizer(text)["input_ids"] for text in ("abcdef>", "fedcba"))
    assert len(prompt) == 7
    assert prompt + completion == tokenizer("abcdef>fedcba")["input_ids"]
    assert tokenizer.decode([*completion, tokenizer.eos_token_id], skip_special_tokens=True) == "fedcba"
    assert tokenizer("A")["input_ids"] == [tokenizer.unk_token_id]


def test_evaluate_counts_right_answers_of_an_ordinary_folder(prepared: Path, tmp_path: Path) -> None:
    """A model forced to end at once answers nothing: right for an empty answer alone."""
    write_model(tmp_path)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(tmp_path, tie_word_embeddings=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[2] = 1.0  # <eos>
    model.save_pretrained(tmp_path)
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text('{"prompt": "ab>", "answer": "ba"}\n{"prompt": "abc>", "answer": ""}\n')
    outcome = CliRunner().invoke(app, ["evaluate", str(tmp_path), str(heldout), "--json"])
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(outcome.stdout.splitlines()[-1])
    assert (result["right"], result["words"], result["exact_match"]) == (1, 2, 0.5)


def test_evaluate_names_a_missing_folder() -> None:
    outcome = CliRunner().invoke(app, ["evaluate", "/nowhere", "/nothing.jsonl"])
    assert outcome.exit_code == 2
    assert "/nowhere/config.json does not exist" in outcome.stderr


def test_the_recipe_loads_and_fits_the_data() -> None:
    recipe = load(Path("recipes/reverse.yaml"))
    assert recipe.sft is not None
    assert recipe.run.steps * recipe.pacing.batch_groups <= TRAIN_WORDS  # each word at most once
    assert recipe.generation.max_tokens > WORD_LETTERS + 1  # the end, and room to be too long
    names = {Path(path).name for path in (recipe.data.path, recipe.sft.path)}
    assert names == {"train.jsonl", "sft.jsonl"}
