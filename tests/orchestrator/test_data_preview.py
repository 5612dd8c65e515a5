"""`headrace data`: what becomes of the files, before anything starts."""

import json

import pytest
import yaml
from data_sets import jsonl, parquet
from orchestrator_folders import CHAT_TEMPLATE, sections, write_model

from orchestrator import commands
from orchestrator.recipe import RecipeError


@pytest.fixture
def recipe(tmp_path):
    write_model(tmp_path / "m", letters="<>abcdefghijklmnopqrstuvwxyz .", vocabulary=33, chat_template=CHAT_TEMPLATE)
    jsonl(tmp_path / "one.jsonl", ["{", *({"prompt": "a" * (n + 1)} for n in range(40))])
    parquet(tmp_path / "two.parquet", [{"question": "b", "image": b"\x00"}])
    content = sections(
        data={
            "sources": [
                {"path": "one.jsonl", "weight": 3},
                {"path": "two.parquet", "prompt_column": "question"},
            ],
            "chat_template": True,
            "max_bad_rows": 1,
            "unfit_prompts": "drop",
        }
    )
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "r.yaml"


def test_text_shows_counts_lengths_and_the_first_prompt_as_the_model_sees_it(recipe, capsys):
    commands.data(recipe, [], as_json=False)
    shown = capsys.readouterr().out
    assert "one  75.0% of the prompts" in shown
    assert "rows     40, and 1 bad ones left out" in shown
    assert "line 1 is not JSON" in shown
    # <user>, a newline without a token of its own, <assistant>: 6 + 1 + 11 tokens beside the letters, and 56 fit: the
    # kept have 19 to 56, the 19th of these 38 has 37.
    assert "p50 37, p99 56, longest 56; 2 of the 40 prompts checked cannot be asked" in shown
    assert "first    < u s e r > a <pad> < a s s i s t a n t >" in shown
    assert "not JSON image (binary)" in shown


def test_json_has_the_same(recipe, capsys):
    commands.data(recipe, [], as_json=True)
    one, two = json.loads(capsys.readouterr().out)["data"]
    assert (one["name"], one["share"], one["rows"], one["bad_rows"], one["unfit"]) == ("one", 0.75, 40, 1, 2)
    assert (two["kind"], two["files"], two["left_out"]) == ("parquet", ["two.parquet"], {"image": "binary"})
    assert two["first_prompt"] == "< u s e r > b <pad> < a s s i s t a n t >"


def test_all_that_is_wrong_is_said_at_once(recipe):
    overrides = ["data.max_bad_rows=0", "data.sources.1.prompt_column=questions"]
    with pytest.raises(RecipeError) as caught:
        commands.data(recipe, overrides, as_json=False)
    assert [line.split(" = ")[0] for line in caught.value.lines] == [
        "data.sources.1.prompt_column",
        "data.sources.0.path",
    ]
